"""Exact conversion between Hugging Face directories and distributed checkpoints."""
