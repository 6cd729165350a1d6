"""Looks into packed datasets: checks, rows as text, statistics."""
