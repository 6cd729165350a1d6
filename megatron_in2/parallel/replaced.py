"""Replaces names of other libraries for as long as a block runs."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def replaced(names: Mapping[Any, Mapping[str, Any]]) -> Iterator[None]:
    """Set attributes of modules and classes, and set back what they were when the block ends.

    Args:
        names: for each module or class, what its attributes are inside.
    """
    originals = [
        (owner, name, getattr(owner, name)) for owner, new in names.items() for name in new
    ]
    for owner, new in names.items():
        for name, value in new.items():
            setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
