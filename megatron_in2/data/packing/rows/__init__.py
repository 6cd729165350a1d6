"""Which samples share a row, and the rows on disk."""
