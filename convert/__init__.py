"""Convert checkpoints between other projects' formats and the native format, and prove that nothing changed."""
