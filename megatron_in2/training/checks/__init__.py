"""What is checked before a run, and between its ranks."""
