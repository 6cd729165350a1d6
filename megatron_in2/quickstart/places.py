"""The files of the quickstart, relative to the directory in which it is started."""

from pathlib import Path

HOME = Path("runs/quickstart")
STAMPS = HOME / ".steps"
SAMPLES = HOME / "samples" / "samples.jsonl"
DATASET = HOME / "data" / "in2"
CHECKPOINTS = HOME / "checkpoints"
KILLED_METRICS = HOME / "killed_metrics.jsonl"
EXPORT = HOME / "huggingface"
PROOF = HOME / "conversion.json"
PIECES, PROBES = HOME / "pieces", HOME / "probes"
PREDICTIONS = HOME / "predictions" / "document.jsonl"
SCORES, CURVE = HOME / "scores" / "document.json", HOME / "scores" / "document.png"
