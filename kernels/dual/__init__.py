"""The dual form: mini-batches as matmuls, on any device (arXiv 2407.04620, section 2.5)."""
