"""Output of a run: on the console, in report.html with its plots and statistics, and for TensorBoard."""
