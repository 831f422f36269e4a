"""Generation of text and frames, a token at a time."""
