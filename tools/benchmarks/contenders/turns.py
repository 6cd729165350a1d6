"""Runs a contender of ``training.py``: one training step for each line on stdin.

Imports nothing from this package, because peers run it in their own environments.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


def _kernel_size(name: str) -> int:
    """Return a size from this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


# Contenders import this module last, so this is the memory of interpreter and libraries.
IMPORTED_BYTES = _kernel_size("VmRSS")


def take_turns(step: Callable[[int], float]) -> None:
    """Do a step for each line on stdin and answer with its loss, times and peak memory.

    Args:
        step: runs the training step with a number, from 0, and returns its loss.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keep the output of libraries out of the answers
    _answer(answers, {"imported_bytes": IMPORTED_BYTES})
    for number, _ in enumerate(sys.stdin):
        started, busy = time.perf_counter(), time.process_time()
        loss = step(number)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - busy
        figures = {"loss": loss, "seconds": seconds, "cpu_seconds": cpu_seconds}
        _answer(answers, {**figures, "peak_bytes": _kernel_size("VmHWM")})


def _answer(answers: Any, values: dict[str, float]) -> None:
    print(json.dumps(values), file=answers, flush=True)


class PeerRun:
    """Shared by both peers: threads, data, AdamW with its groups, clipping, accumulation.

    Args:
        folder: with the files that ``training.py`` has written.
        model: the peer's.
    """

    def __init__(self, folder: Path, model: torch.nn.Module) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.model = model
        self.tokens = torch.from_numpy(np.load(folder / "tokens.npy"))  # [steps, rows, S]
        self.labels = torch.from_numpy(np.load(folder / "labels.npy"))  # -100: not trained on
        settings = json.loads((folder / "optimizer.json").read_text())
        self.clip_grad = settings.pop("clip_grad")
        decay = settings.pop("weight_decay")
        parameters = list(model.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": decay},
            {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, fused=True, **settings)

    def step(self, number: int, row_loss: Callable[[Any, Any, int], torch.Tensor]) -> float:
        """One optimizer step over a global batch, row by row.

        Args:
            number: of the step.
            row_loss: maps tokens [1, S], labels [1, S] and the batch's number of answer tokens to
                the row's part of the batch's mean loss.
        """
        tokens, labels = self.tokens[number], self.labels[number]
        answer_tokens = int((labels != -100).sum())
        loss = 0.0
        self.optimizer.zero_grad(set_to_none=True)
        for row in range(len(tokens)):
            part = row_loss(tokens[row : row + 1], labels[row : row + 1], answer_tokens)
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad)
        self.optimizer.step()
        return loss
