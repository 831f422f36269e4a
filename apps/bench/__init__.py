"""`tttvideo bench`: the inner loop and layers against other implementations."""
