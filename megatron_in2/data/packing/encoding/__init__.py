"""Samples to token ids and masks."""
