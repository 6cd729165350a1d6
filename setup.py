"""For tools that start packaging here; all metadata is in pyproject.toml."""

from setuptools import setup

setup()
