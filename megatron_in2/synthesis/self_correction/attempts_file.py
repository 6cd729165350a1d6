"""Keeps drawn attempts beside the output: a run that was killed draws only those that lack."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.files import read_json, read_json_lines, write_json
from megatron_in2.progress import progress_bar
from megatron_in2.synthesis.self_correction.tasks import AttemptDrawer, Drawn, Task

Tasks = Callable[[], Iterator[Task]]  # reads the samples anew


class AttemptsFile:
    """``OUTPUT.attempts.jsonl``: one line a sample, in order; ``.run.json`` says whose they are.

    Args:
        output: of the run.
        run: what the attempts depend on, JSON values.
    """

    def __init__(self, output: Path, run: dict[str, Any]) -> None:
        self.path = output.with_name(f"{output.name}.attempts.jsonl")
        self._run_path = output.with_name(f"{output.name}.attempts.run.json")
        self._run = run

    def complete(self, tasks: Tasks, total: int, drawer: AttemptDrawer) -> None:
        """Draw what lacks.

        Raises:
            InputError: the file holds attempts of another run, or the drawer cannot go on.
        """
        done = self._kept()
        waiting = tasks()
        for _ in range(done):
            next(waiting)
        bar = progress_bar(desc="attempts", unit=" samples", initial=done, total=total)
        with bar, open(self.path, "a", encoding="utf-8") as stream:
            for drawn in drawer.draw(waiting):
                line = json.dumps(asdict(drawn), ensure_ascii=False)
                stream.write(line.encode("utf-8", "replace").decode() + "\n")
                stream.flush()
                bar.update()

    def read(self) -> Iterator[Drawn]:
        """Yield what was drawn, sample by sample."""
        for _, values in read_json_lines(self.path):
            yield Drawn(tuple(values["texts"]), values["cut_off"], values["problem"])

    def _kept(self) -> int:
        """Return how many samples have their attempts; cut off an incomplete last line."""
        if not self.path.exists():
            write_json(self._run_path, self._run)
            return 0
        if not self._run_path.exists() or read_json(self._run_path) != self._run:
            raise InputError(
                f"{self.path} holds attempts of another model, other samples or other settings: "
                "remove it, or name another --output"
            )
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        os.truncate(self.path, whole)
        return content.count(b"\n", 0, whole)
