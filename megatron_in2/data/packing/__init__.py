"""Samples to packed rows: read, encode, pack, write."""
