"""Builds probes: contexts of many units, and for chosen positions the question about that unit."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

from megatron_in2.errors import InputError
from megatron_in2.evaluation.tasks import ProbeTask, Unit, find_task, read_units
from megatron_in2.files import atomic_file
from megatron_in2.templates import FILM
from megatron_in2.tokenizer import Tokenizer


@dataclass(frozen=True)
class BuildConfig:
    """What to build.

    Args:
        context_tokens: longest probe, in tokens of the whole prompt.
        positions: positions asked for in each set, evenly spread; 0 asks for every one.
        sets: contexts.
        seed: the same seed and pieces give the same probes.
    """

    task: str = "document"
    context_tokens: int = 32_000
    positions: int = 0
    sets: int = 4
    seed: int = 1234


def build_probes(
    pieces: Path, output: Path, config: BuildConfig, tokenizer: Tokenizer
) -> tuple[int, int]:
    """Write ``output/TASK.jsonl``, one probe a line in the published form.

    A line has ``prompt``, ``completion``, ``position_id``, ``set_id``, and ``units``, the number
    of units in its context. A position whose piece stands twice in its context is skipped.

    Returns:
        (probes written, positions skipped).

    Raises:
        InputError: too few pieces, or a context too short for the positions asked for.
    """
    task = find_task(config.task)
    units = read_units(pieces, task)
    written = skipped = 0
    with atomic_file(output / f"{task.name}.jsonl") as stream:
        for set_id in range(config.sets):
            chance = random.Random(f"{config.seed}/{task.name}/{set_id}")
            chosen = _fill(chance.sample(units, len(units)), task, config, tokenizer)
            context = task.separator.join(unit.text for unit in chosen)
            for position in _positions(len(chosen), config.positions):
                unit = chosen[position]
                if context.count(unit.piece) != 1:
                    skipped += 1
                    continue
                probe = {
                    "prompt": _prompt(context, unit, task),
                    "completion": unit.answer,
                    "position_id": position,
                    "set_id": set_id,
                    "units": len(chosen),
                    "task": task.name,
                }
                stream.write(json.dumps(probe, ensure_ascii=False) + "\n")
                written += 1
    return written, skipped


def _fill(
    units: list[Unit], task: ProbeTask, config: BuildConfig, tokenizer: Tokenizer
) -> list[Unit]:
    """Take units in order while the longest question about them still fits."""
    chosen: list[Unit] = []
    longest = 0
    tokens = 1 + len(tokenizer.encode(FILM.prompt("", "")))
    for unit in units:
        # Each part counted apart, separators included, is never less than the joined whole.
        tokens += len(tokenizer.encode(task.separator + unit.text))
        longest = max(longest, len(tokenizer.encode(task.question.format(piece=unit.piece))))
        if tokens + longest > config.context_tokens:
            break
        chosen.append(unit)
    if len(chosen) == len(units):
        raise InputError(
            f"{len(units)} {task.name} pieces do not fill {config.context_tokens} tokens: give "
            "more pieces or lower --context-tokens"
        )
    if len(chosen) < max(config.positions, 1):
        raise InputError(
            f"--context-tokens {config.context_tokens} holds {len(chosen)} {task.name} units, "
            f"fewer than --positions {config.positions}"
        )
    return chosen


def _positions(units: int, wanted: int) -> list[int]:
    if wanted in (0, units):
        return list(range(units))
    if wanted == 1:
        return [units // 2]
    return [round(index * (units - 1) / (wanted - 1)) for index in range(wanted)]


def _prompt(context: str, unit: Unit, task: ProbeTask) -> str:
    return FILM.prompt(task.question.format(piece=unit.piece), context)
