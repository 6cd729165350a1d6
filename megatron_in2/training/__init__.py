"""Packed rows to a trained model: configuration, batches, loss, the loop and what watches it."""
