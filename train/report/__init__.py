"""What a run says of itself: on the console, in report.html with its plots and statistics, for TensorBoard."""
