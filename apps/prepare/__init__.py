"""`tttvideo prepare text | video | recall`."""
