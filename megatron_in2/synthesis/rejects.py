"""Every drop is counted with its reason and listed: nothing leaves the road unseen."""

import json
from collections import Counter
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
        self._stream.write(json.dumps(record, ensure_ascii=False) + "\n")
