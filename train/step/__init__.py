"""The compiled training step, its batches, its layout on devices and processes, its memory, and evaluation."""
