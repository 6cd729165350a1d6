"""Which part of a job's input one process takes: ``--shard I --num-shards N``, I from 0."""

from dataclasses import dataclass
from pathlib import Path

from megatron_in2.errors import InputError


@dataclass(frozen=True, slots=True)
class Shard:
    """One of ``count`` equal parts of the work.

    Args:
        index: 0 to ``count`` - 1.
        count: processes that share the work.

    Raises:
        InputError: the index is out of range.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.index < self.count:
            raise InputError(
                f"--shard {self.index} --num-shards {self.count}: need 0 <= shard < num-shards"
            )

    @classmethod
    def from_label(cls, label: str) -> "Shard":
        """Read the label that manifests hold: ``3/16`` is the third of sixteen."""
        number, _, count = label.partition("/")
        return cls(int(number) - 1, int(count))

    @property
    def label(self) -> str:
        """The shard as manifests hold it; counted from 1."""
        return f"{self.index + 1}/{self.count}"

    def holds(self, identity: str) -> bool:
        """Whether a hexadecimal content hash belongs here: equal texts always share a shard."""
        return shard_of(identity, self.count) == self.index

    def part_of(self, count: int) -> int:
        """Return this shard's part of ``count`` samples; the parts add up to it."""
        return count * (self.index + 1) // self.count - count * self.index // self.count

    def path(self, output: Path) -> Path:
        """Return where this shard writes: ``X.00003-of-00016.jsonl`` for ``X.jsonl``."""
        if self.count == 1:
            return output
        return output.with_name(
            f"{output.stem}.{self.index:05d}-of-{self.count:05d}{output.suffix}"
        )


def shard_of(identity: str, count: int) -> int:
    """Return which of ``count`` shards a hexadecimal content hash belongs to."""
    return int(identity, 16) % count
