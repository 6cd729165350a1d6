"""Reads the whole step that a run starts from before it is used, each rank its share of it."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from tqdm import tqdm

from megatron_in2.checkpoint.folder import complete_steps, set_aside
from megatron_in2.checkpoint.integrity import NOT_PROTECTED, damaged, find_damage, is_protected
from megatron_in2.data.packed.blend import blend_sha256
from megatron_in2.parallel.world import World
from megatron_in2.training.checks.preflight import RunInputs
from megatron_in2.training.checks.resume import newest_sound_step
from megatron_in2.training.config import TrainConfig


def start_from_sound_step(config: TrainConfig, inputs: RunInputs, world: World) -> RunInputs:
    """Check the step that the run resumes from, or begins with, collectively.

    A damaged step of the run itself is set aside, with a warning, and the one before it takes its
    place.

    Returns:
        The inputs, with the step that is sound. The same on every rank.

    Raises:
        InputError: on every rank: ``checkpoint.init_from`` is damaged, or no step is left.
    """
    known: set[str] = set()
    while True:
        step = inputs.resume_from[0] if inputs.resume_from else inputs.init_from
        if world.is_main and inputs.resume_from:
            _set_aside_newer(inputs.resume_from[0])
        problem = _damage_seen_by_any(step, world) if step else None
        if problem is None:
            if step and world.is_main and not is_protected(step):
                _say(NOT_PROTECTED.format(step=step))
            return inputs
        assert step is not None
        if inputs.resume_from is None:
            raise damaged(step, problem)
        known.add(step.name)
        if world.is_main:
            _put_away(step, problem)
        dist.barrier()
        rows_sha256 = blend_sha256(config.data.train, [part.manifest for part in inputs.datasets])
        found = newest_sound_step(config, inputs.tokenizer.sha256, rows_sha256, known)
        inputs = replace(inputs, resume_from=found)


def _damage_seen_by_any(step: Path, world: World) -> str | None:
    problems: list[Any] = [None] * world.size
    dist.all_gather_object(problems, find_damage(step, (world.rank, world.size)))
    return next(filter(None, problems), None)


def _set_aside_newer(chosen: Path) -> None:
    """Put away what the look at small files has passed over."""
    for step in complete_steps(chosen.parent):
        if step > chosen and (problem := find_damage(step, share=None)):
            _put_away(step, problem)


def _put_away(step: Path, problem: str) -> None:
    target = set_aside(step)
    _say(f"{step} is damaged ({problem}): set aside as {target.name}; the one before it is used")


def _say(warning: str) -> None:
    tqdm.write(f"WARNING {warning}", file=sys.stderr)
