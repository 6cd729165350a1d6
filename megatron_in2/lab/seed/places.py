"""The files of one seed."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SeedFolder:
    """Where one seed's files are."""

    path: Path

    @property
    def tokenizer(self) -> Path:
        return self.path / "words.model"

    def samples(self, dataset: str) -> Path:
        return self.path / "samples" / f"{dataset}.jsonl"

    def rows(self, dataset: str) -> Path:
        return self.path / "data" / dataset

    def drawn(self, panel: str, run: str) -> "SeedFolder":
        """Return where the samples are that hold a run's attempts."""
        return SeedFolder(self.path / panel / run / "attempts")

    def probes(self, measure: str) -> Path:
        return self.path / "probes" / f"{measure}.jsonl"

    def checkpoints(self, panel: str, run: str) -> Path:
        return self.path / panel / run / "checkpoints"

    def export(self, panel: str, run: str) -> Path:
        return self.path / panel / run / "huggingface"

    def replies(self, panel: str, arm: str, measure: str) -> Path:
        return self.path / panel / arm / "replies" / f"{measure}.jsonl"

    def influence(self, panel: str, arm: str) -> Path:
        return self.path / panel / arm / "influence.json"

    def predictions(self, panel: str, arm: str, measure: str) -> Path:
        return self.path / panel / arm / "predictions" / f"{measure}.jsonl"
