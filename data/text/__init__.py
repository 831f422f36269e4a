"""Text to tokens: documents, tokenizers, corpora."""
