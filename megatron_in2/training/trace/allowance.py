"""What a GPU holds besides the tensors of a trace, and whether a rank fits.

These are assumptions, not measurements: a trace sees tensors and the known workspaces of attention
kernels, but no CUDA context, no buffers of NCCL and no gaps between blocks.
"""

from dataclasses import dataclass

from megatron_in2.training.trace.events import Collective, Kind, Trace
from megatron_in2.training.trace.summary import Peak

GIB = 2**30
CONTEXT = 1.0 * GIB
"""CUDA context, code of kernels, workspaces of cuBLAS."""
COMMUNICATOR = 1.0 * GIB
"""Buffers of one NCCL communicator. Users report about 1.6 GB for the first, which includes the
context, and about 6 GB for several (https://github.com/NVIDIA/nccl/issues/864)."""
FRAGMENTATION = 0.04
"""Share of the memory that changes during a step; assumes expandable segments."""
_STEADY: tuple[Kind, ...] = ("weights", "gradients", "optimizer", "other")


@dataclass(frozen=True)
class Allowance:
    """Bytes that a trace does not see.

    Args:
        context: of CUDA and its libraries.
        communicators: of NCCL.
        fragmentation: gaps between blocks.
    """

    context: float
    communicators: float
    fragmentation: float

    @property
    def total(self) -> float:
        return self.context + self.communicators + self.fragmentation


def allowance(trace: Trace, peak: Peak) -> Allowance:
    """Return the allowance at a peak of a trace."""
    groups = {
        each.ranks for each in trace.events if isinstance(each, Collective) and len(each.ranks) > 1
    }
    changing = peak.total - sum(peak.kinds.get(kind, 0) for kind in _STEADY)
    return Allowance(CONTEXT, COMMUNICATOR * len(groups), FRAGMENTATION * changing)
