"""Checkpoints of other projects to and from the native one, and the proof that nothing changed."""
