"""Generated texts with facts, and questions about them."""
