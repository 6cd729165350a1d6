"""The segment stores of a run: each opened once in a process, and checked once in a run."""

from typing import Any

from megatron_in2.data.packing.encoding.encode import SegmentStores
from megatron_in2.errors import InputError
from megatron_in2.tokenizers.base import Tokenizer


class CheckedStores:
    """What the run's stores hold; nothing is written from a store that is not in here.

    Args:
        tokenizer: the run's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.opened = SegmentStores(tokenizer)
        self._tokenizer = tokenizer
        self.found: dict[str, dict[str, Any]] = {}

    def require_sound(self, path: str) -> None:
        """Check a store, once.

        Raises:
            InputError: it is missing, damaged, or of another tokenizer.
        """
        if path not in self.found:
            hashes = self.opened.open(path).require_sound(self._tokenizer)
            self.found[path] = dict(hashes)

    def are_current(self, stores: dict[str, dict[str, Any]]) -> bool:
        """Whether stores still hold what they held in an earlier start of the run."""
        for path, hashes in stores.items():
            try:
                self.require_sound(path)
            except InputError:
                return False
            if self.found[path] != hashes:
                return False
        return True
