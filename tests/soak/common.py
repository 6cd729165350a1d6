"""What both soaks share: the run that is disturbed, the account of the faults, the comparison."""

import contextlib
import json
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from sentencepiece import SentencePieceTrainer

from megatron_in2.data.packed.random_rows import write_random_rows
from megatron_in2.synthesis.corpus.python_texts import python_texts
from megatron_in2.tokenizers.load import load_tokenizer

SEQ_LENGTH = 64
TAIL_BYTES = 8192


class SoakError(Exception):
    """Something is not as it must be."""


@dataclass
class Ledger:
    """What has happened.

    Args:
        undisturbed: seconds of the run that was left alone.
    """

    undisturbed: float = 0.0
    steps: int = 0  # that were compared
    seconds: float = 0.0  # of the disturbed run
    recoveries: dict[str, list[float]] = field(default_factory=dict)  # seconds, by kind of fault
    _started: float = field(default_factory=time.monotonic)

    def note(self, kind: str, seconds: float) -> None:
        """Add a fault that was survived, and the seconds from it to the next new step."""
        self.recoveries.setdefault(kind, []).append(seconds)

    def end(self, steps: int) -> None:
        """Note the end of the disturbed run, and its steps."""
        self.steps, self.seconds = steps, time.monotonic() - self._started

    def add(self, other: "Ledger") -> None:
        """Add what has happened in another run."""
        self.undisturbed += other.undisturbed
        self.steps += other.steps
        self.seconds += other.seconds
        for kind, times in other.recoveries.items():
            self.recoveries.setdefault(kind, []).extend(times)

    def record(self) -> dict[str, Any]:
        """Return what the account file has of a run; ``Ledger(**record)`` reads it."""
        names = ("undisturbed", "steps", "seconds", "recoveries")
        return {name: getattr(self, name) for name in names}

    def table(self) -> str:
        """Return the table of the docs, and the share of the time that an undisturbed run needs."""
        lines = ["| fault | survived | seconds to the next new step, median |", "|---|---|---|"]
        for kind, times in sorted(self.recoveries.items()):
            lines.append(f"| {kind} | {len(times)} | {median(times):.1f} |")
        total = sum(map(len, self.recoveries.values()))
        every = self.seconds / max(total, 1)
        lines += [
            f"| all | {total} | |",
            "",
            f"{self.steps} losses and gradient norms bitwise the same; ETTR "
            f"{self.undisturbed / self.seconds:.1%} with a fault every {every:.0f} s",
        ]
        return "\n".join(lines)


def write_run(folder: Path, steps: int) -> Path:
    """Write the data and the configuration of the run that is disturbed; return the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    SentencePieceTrainer.Train(
        sentence_iterator=iter(next(python_texts())[1].splitlines()),
        model_prefix=str(folder / "small"),
        vocab_size=500,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    tokenizer = load_tokenizer(str(folder / "small.model"))
    write_random_rows(
        folder / "in2", tokenizer, 50, [SEQ_LENGTH // 2] * 2, learnt_share=0.2, framed=True
    )
    sizes = {"num_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "num_query_groups": 2}
    config = {
        "model": {
            **sizes,
            "head_dim": 8,
            "ffn_hidden_size": 32,
            "vocab_size": tokenizer.vocab_size,
            "max_position_embeddings": SEQ_LENGTH,
        },
        "data": {
            "train": str(folder / "in2"),
            "tokenizer_model": str(tokenizer.path),
            "seq_length": SEQ_LENGTH,
        },
        "schedule": {"global_batch_rows": 4, "steps": steps},
        "optimizer": {"lr": 1e-3},
        "checkpoint": {"interval_steps": 2, "keep_last": 3},
        "logging": {"tensorboard": False},
        "runtime": {"dtype": "float32", "hang_timeout": 60},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def read_losses(folder: Path) -> dict[int, tuple[float, float]]:
    """Return loss and gradient norm by step; a last line that is being written is left out."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for text in (folder / "metrics.jsonl").read_text().splitlines():
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                found[int(line["step"])] = (line["loss"], line["grad_norm"])
    return found


def newest_step(folder: Path) -> int:
    """Return the newest step; cheap, since it is asked many times a second."""
    try:
        with open(folder / "metrics.jsonl", "rb") as stream:
            stream.seek(max(os.fstat(stream.fileno()).st_size - TAIL_BYTES, 0))
            steps = re.findall(rb'^{"step": (\d+),', stream.read(), flags=re.MULTILINE)
    except FileNotFoundError:
        return 0
    return int(steps[-1]) if steps else 0


def require_equal(undisturbed: Path, disturbed: Path) -> int:
    """Compare every loss and gradient norm bitwise; return the number of steps.

    Raises:
        SoakError: one differs.
    """
    expected, found = read_losses(undisturbed), read_losses(disturbed)
    for step in sorted({*expected, *found}):
        if expected.get(step) != found.get(step):
            raise SoakError(f"step {step}: {found.get(step)} instead of {expected.get(step)}")
    return len(found)
