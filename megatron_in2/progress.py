"""Progress of long work: a live bar in a terminal, a line every ten seconds in a log file."""

import sys
from typing import Any

from tqdm import tqdm

LOG_SECONDS = 10.0


def progress_bar(iterable: Any = None, **options: Any) -> Any:
    """Return a tqdm bar; takes tqdm's own arguments."""
    interval = 0.1 if sys.stderr.isatty() else LOG_SECONDS
    return tqdm(iterable, mininterval=interval, **options)
