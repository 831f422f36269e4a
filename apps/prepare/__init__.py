"""`tttvideo prepare text | video | drawn | pan | recall`."""
