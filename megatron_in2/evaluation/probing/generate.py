"""Answers probes one file at a time: answers are kept, and an interrupted run continues."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from megatron_in2.errors import InputError
from megatron_in2.evaluation.lines import Line
from megatron_in2.files import read_json, read_json_lines, sha256_of_file, write_json
from megatron_in2.progress import progress_bar


class Answerer(Protocol):
    """What answers probes: a checkpoint, or an endpoint.

    ``identity`` (JSON values) distinguishes its answers from another's; ``answer`` yields one
    prediction a probe, in order, each with ``samples`` (a list of one text, or of None).
    """

    identity: dict[str, Any]

    def answer(self, probes: list[Line]) -> Iterator[dict[str, Any]]: ...


def generate_predictions(answerer: Answerer, probes: Path, output: Path) -> int:
    """Write one prediction a line, in the probes' order, and return their number.

    ``output`` + ``.run.json`` records the answerer and the probes; the same call after an
    interruption continues where it stopped.

    Raises:
        InputError: there are no probes, one has no prompt, ``output`` holds predictions of another
            run, or the answerer cannot continue.
    """
    records = list(read_json_lines(probes))
    if not records:
        raise InputError(f"{probes} holds no probes: build them with in2 probe build")
    for where, record in records:
        if not isinstance(record.get("prompt"), str):
            raise InputError(f"{where}: field 'prompt' is missing or not text")
    done = _resume(output, {"probes_sha256": sha256_of_file(probes), **answerer.identity})
    bar = progress_bar(desc="generate", unit=" probes", initial=done, total=len(records))
    with bar, open(output, "a", encoding="utf-8") as stream:
        for prediction in answerer.answer(records[done:]):
            stream.write(json.dumps(prediction, ensure_ascii=False) + "\n")
            stream.flush()
            bar.update()
    return len(records)


def _resume(output: Path, run: dict[str, Any]) -> int:
    """Return the number of this run's predictions that exist; cut off an incomplete last line."""
    description = output.with_name(f"{output.name}.run.json")
    if not output.exists():
        write_json(description, run)
        return 0
    if not description.exists() or read_json(description) != run:
        raise InputError(f"{output} holds predictions of another run: name another output")
    content = output.read_bytes()
    whole = content.rfind(b"\n") + 1
    os.truncate(output, whole)
    return content.count(b"\n", 0, whole)
