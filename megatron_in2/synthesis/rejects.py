"""Every drop is counted with its reason and listed: nothing disappears unseen."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


class Rejects:
    """Counts drops and lists them as JSON lines.

    Args:
        stream: where the list goes.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.counts: Counter[str] = Counter()

    def drop(self, identity: str, reason: str, **detail: Any) -> None:
        """Count one drop under ``reason`` and list it with whatever explains it."""
        self.counts[reason] += 1
        record = {"id": identity, "reason": reason, **detail}
        line = json.dumps(record, ensure_ascii=False)
        # Halves of surrogate pairs, which a model can write, are in no encoding.
        self._stream.write(line.encode("utf-8", "backslashreplace").decode() + "\n")


@contextmanager
def listed_rejects(output: Path) -> Iterator[Rejects]:
    """List drops in ``output`` + ``.rejects.jsonl``, which stays however the run ends."""
    path = output.with_name(f"{output.name}.rejects.jsonl")
    with open(path, "w", encoding="utf-8", buffering=1) as stream:
        yield Rejects(stream)
