"""Fine-tuning: files of labelled texts in, a run directory with the best model out."""
