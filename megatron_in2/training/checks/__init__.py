"""Checks before a run, and between its ranks."""
