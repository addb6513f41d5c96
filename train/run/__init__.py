"""A training run: its directory, the training loop, checkpoints and resuming, signals, and the watchdog."""
