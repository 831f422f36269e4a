"""Files of weights: our checkpoints, and those of the reference implementations."""
