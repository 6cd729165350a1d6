"""Trains a model on packed rows."""
