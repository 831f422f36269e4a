"""`tttvideo evaluate KIND`: the use that models make of context, and loss by size."""
