"""Tests of the checkpoint store and of conversion."""
