"""`tttvideo prepare text | video | pan | drawn | maze | recall`."""
