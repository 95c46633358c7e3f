"""Checkpoints of other programs, read into our format, and ours written for other programs."""
