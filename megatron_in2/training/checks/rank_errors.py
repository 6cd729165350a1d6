"""Failures of a rank that end with one line instead of a traceback."""

import contextlib
import socket
from collections.abc import Iterator

import torch

from megatron_in2.errors import InputError
from megatron_in2.parallel.rank import Rank
from megatron_in2.training.config import TrainConfig

# In the message of a failed allocation that is not a torch.OutOfMemoryError.
OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "Failed to CUDA malloc",  # NCCL
)
LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")  # gloo
MAX_MESSAGE_CHARACTERS = 200  # of torch's message in ours


@contextlib.contextmanager
def failures_in_one_line(config: TrainConfig, rank: Rank) -> Iterator[None]:
    """Turn running out of memory, and the end of another rank, into one line each.

    Raises:
        InputError: this rank ran out of memory; the message has the remedies.
        SystemExit: the connection to another rank is lost; exit code 1. That rank's own message
            has the reason.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        where = f"rank {rank.index} on {socket.gethostname()}"
        if is_out_of_memory(error):
            message = " ".join(str(error).split())[:MAX_MESSAGE_CHARACTERS]
            raise InputError(
                f"{where} is out of memory ({message}): "
                f"{' or '.join(memory_remedies(config))}; in2 plan shows what fits"
            ) from error
        if any(words in str(error) for words in LOST_PEER):
            raise SystemExit(
                f"{where} lost the connection to another rank, whose message has the reason; ending"
            ) from error
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed, on the GPU or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in OUT_OF_MEMORY)


def memory_remedies(config: TrainConfig) -> list[str]:
    """Return changes of a configuration that reduce its memory, those that cost least first."""
    parallel = config.parallel
    remedies = []
    if not parallel.sequence and parallel.tensor > 1:
        remedies.append("set parallel.sequence=true")
    if config.runtime.logits == "all":
        remedies.append("set runtime.logits=answers")
    if config.runtime.recompute != "full":
        remedies.append("set runtime.recompute=full")
    remedies.append(
        f"raise parallel.context (now {parallel.context}), tensor (now {parallel.tensor}) or "
        f"pipeline (now {parallel.pipeline})"
    )
    if config.runtime.dtype == "float32":
        remedies.append("set runtime.dtype=bfloat16")
    return remedies
