"""What a terminal, a picture or a clip shows of a result."""
