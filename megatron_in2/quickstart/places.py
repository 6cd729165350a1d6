"""The files of one quickstart."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Places:
    """Where one quickstart writes, all below ``home``.

    Args:
        home: the folder of all outputs.
        stamps: folder of the stamps of finished steps.
        samples: IN2 samples.
        dataset: prefix of the packed training rows.
        validation: prefix of the packed validation rows.
        checkpoints: of the run, with its metrics.
        killed_metrics: metrics of the training up to its kill.
        export: the model in Hugging Face's form.
        proof: report of the export's verification.
        pieces: documents of which the probes consist.
        probes: folder of the probes.
        predictions: the model's answers.
        scores: accuracy by evidence position.
        curve: picture of the scores.
        lab: folder of the smallest study.
    """

    home: Path
    stamps: Path
    samples: Path
    dataset: Path
    validation: Path
    checkpoints: Path
    killed_metrics: Path
    export: Path
    proof: Path
    pieces: Path
    probes: Path
    predictions: Path
    scores: Path
    curve: Path
    lab: Path

    @classmethod
    def below(cls, home: Path) -> "Places":
        """Return the places below a folder."""
        return cls(
            home=home,
            stamps=home / ".steps",
            samples=home / "samples" / "samples.jsonl",
            dataset=home / "data" / "in2",
            validation=home / "data" / "in2_valid",
            checkpoints=home / "checkpoints",
            killed_metrics=home / "killed_metrics.jsonl",
            export=home / "huggingface",
            proof=home / "conversion.json",
            pieces=home / "pieces",
            probes=home / "probes",
            predictions=home / "predictions" / "document.jsonl",
            scores=home / "scores" / "document.json",
            curve=home / "scores" / "document.png",
            lab=home / "lab",
        )
