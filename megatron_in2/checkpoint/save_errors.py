"""Says in one line why a checkpoint could not be written, and which one exists."""

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch.distributed as dist
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from torch.distributed.checkpoint.api import CheckpointException

from megatron_in2.checkpoint.folder import complete_steps
from megatron_in2.checkpoint.integrity import COMPLETE
from megatron_in2.errors import EXIT_BAD_INPUT, InputError

_SPACE = "free some, lower checkpoint.keep_last or name another checkpoint.dir"
_FULL = ("the disk is full", _SPACE)
_KILLED = ("a process that wrote it was killed", "see that memory suffices")
# What torch's and Megatron-Core's writers say, and what it means.
_KNOWN = {
    "No space left on device": _FULL,
    "PytorchStreamWriter failed": _FULL,
    "unexpected pos": _FULL,
    "iostream error": _FULL,  # of torch.save, which writes what all ranks share
    "Disk quota exceeded": ("the disk quota is used up", _SPACE),
    "File too large": ("a file is larger than allowed here", "raise the limit (ulimit -f)"),
    "results_queue should not be empty": _KILLED,
}
# The writers' log says the same once more, in torch's words.
logging.getLogger(FileSystemWriterAsync.__module__).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def explained(step: Path) -> Iterator[None]:
    """Turn what goes wrong while a step is saved into one line, and remove what was written of it.

    Megatron-Core raises a writer's failure on every rank, with its cause on the first one: that one
    prints it, the others only end.

    Raises:
        InputError: naming the folder, the reason and the remedy.
    """
    try:
        yield
    except (OSError, RuntimeError, CheckpointException) as error:
        if isinstance(error, CheckpointException) and dist.get_rank() != 0:
            raise SystemExit(EXIT_BAD_INPUT) from error
        found = _reason_and_remedy(error)
        if found is None:
            raise
        reason, remedy = found
        folder = step.parent
        if not (step / COMPLETE).is_file():  # what fails later leaves a whole step as it is
            shutil.rmtree(step, ignore_errors=True)
        steps = complete_steps(folder)
        newest = f"{steps[-1].name} is complete and is resumed from" if steps else "none exists yet"
        raise InputError(
            f"{step} could not be saved: {reason}: {remedy}, and start again; {newest}"
        ) from error


def _reason_and_remedy(error: BaseException) -> tuple[str, str] | None:
    """Return both as text, or None where the failure is a defect that needs its traceback."""
    text = str(error)
    for words, known in _KNOWN.items():
        if words in text:
            return known
    if isinstance(error, OSError) and error.strerror:
        return error.strerror, "fix that or name another checkpoint.dir"
    return None
