"""Examines all that a run has saved: every file of every step, and its metrics."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_in2.checkpoint.folder import (
    METRICS,
    STATE,
    complete_steps,
    damaged_steps,
    read_config,
    read_state,
)
from megatron_in2.checkpoint.integrity import COMPLETE, find_damage, is_protected
from megatron_in2.errors import InputError


@dataclass(frozen=True)
class Finding:
    """What was found of one part of a run.

    Args:
        subject: a step or a file.
        result: ``sound``, or what is to be known of it.
        is_problem: True where it is not as it should be.
    """

    subject: str
    result: str
    is_problem: bool = False


def examine_run(folder: Path) -> Iterator[Finding]:
    """Yield what is found, one part after the other; reads every file once.

    Args:
        folder: ``checkpoint.dir`` of a run.

    Raises:
        InputError: it holds no step at all.
    """
    steps, set_aside = complete_steps(folder), damaged_steps(folder)
    if not steps and not set_aside:
        raise InputError(f"{folder} holds no complete checkpoint: name checkpoint.dir of a run")
    lines = _step_lines(folder / METRICS)
    for step in steps:
        yield _examine_step(step, lines)
    for step in set_aside:
        yield Finding(step.name, "was set aside as damaged, and is not used", is_problem=True)
    for path in sorted(folder.glob("iter_*")):
        if path not in steps:
            yield Finding(path.name, "is incomplete, and is not used")
    if lines is not None:
        yield _examine_metrics(lines)


def _examine_step(step: Path, lines: list[dict[str, float]] | None) -> Finding:
    if problem := find_damage(step):
        return Finding(step.name, f"is damaged: {problem}", is_problem=True)
    try:
        number = json.loads((step / COMPLETE).read_bytes())["step"]
        read_config(step)
        problem = _state_problem(step, number, lines)
    except (InputError, ValueError, KeyError) as error:
        return Finding(step.name, f"is damaged: {error}", is_problem=True)
    if problem:
        return Finding(step.name, problem, is_problem=True)
    files = [path for path in step.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e9
    protection = "sound" if is_protected(step) else "readable, saved without hashes"
    return Finding(step.name, f"{protection}: {len(files)} files, {size:.3f} GB")


def _state_problem(step: Path, number: int, lines: list[dict[str, float]] | None) -> str | None:
    if not (step / STATE).is_file():
        return None  # weights alone
    state = read_state(step)
    if state.step != number:
        return f"{STATE} is of step {state.step}, {COMPLETE} of step {number}"
    own = [line for line in lines or [] if line["step"] == number]
    for line in own:
        for name, value in (("loss", state.loss), ("consumed_rows", state.consumed_rows)):
            if line[name] != value:
                return f"{STATE} has {name}={value}, {METRICS} {line[name]}"
    return None


def _examine_metrics(lines: list[dict[str, float]]) -> Finding:
    numbers = [int(line["step"]) for line in lines]
    if not numbers:
        return Finding(METRICS, "holds no step")
    expected = list(range(numbers[0], numbers[0] + len(numbers)))
    if numbers != expected:
        wrong = next(b for a, b in zip(expected, numbers, strict=True) if a != b)
        return Finding(METRICS, f"step {wrong} is double, missing or out of order", True)
    return Finding(METRICS, f"sound: steps {numbers[0]} to {numbers[-1]}, each once")


def _step_lines(path: Path) -> list[dict[str, float]] | None:
    """Read the lines of steps; None where there is no such file, as beside imported weights."""
    if not path.is_file():
        return None
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # the torn last line of a killed run: the next start drops it
            continue
        if "loss" in line:
            lines.append(line)
    return lines
