"""Greedy answers of the model that is being trained, in its own parallel layout."""
