"""Packed rows to a trained model."""
