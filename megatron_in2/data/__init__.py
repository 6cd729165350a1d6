"""Samples to packed rows, and packed rows to the trainer."""
