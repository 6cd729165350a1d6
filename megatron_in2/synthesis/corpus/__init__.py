"""A corpus to a store of segments: read, cleaned of duplicates and evaluation texts, cut."""
