"""Runs all stages in small on one machine, by starting the commands."""
