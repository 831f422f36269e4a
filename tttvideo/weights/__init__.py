"""Weights in files: our checkpoints, and those of the reference implementations."""
