"""Inspects the node and the GPU of one rank."""

import hashlib
import platform
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch

from megatron_in2.cluster.findings import CheckConfig, RankFindings, node_of_rank, probe_file
from megatron_in2.errors import InputError, UnfitNodeError
from megatron_in2.parallel.devices import own_gpu, require_granted_gpus
from megatron_in2.parallel.rank import Rank

PACKAGE = Path(__file__).resolve().parent.parent
GPU_MEMORY_FREE = 0.9  # share of a GPU's memory that must be free before the job starts
MATMUL_SIZE = 2048


def inspect_rank(
    config: CheckConfig, rank: Rank, check_inputs: Callable[[], object]
) -> RankFindings:
    """Return the findings of this rank; the first rank of a node also checks files and disk."""
    problems, faults = [], _gpu_faults(rank)
    if rank.local_index == 0:
        try:
            check_inputs()
        except (InputError, OSError) as error:
            problems.append(str(error))
        problems += _space_problems(config)
    try:
        probe_file(config, rank.index).touch()
    except OSError as error:
        faults.append(f"{config.folder} is not writable: {error.strerror}")
    node = node_of_rank(rank.index, config, rank.local_world_size)
    return RankFindings(rank.index, node, software_versions(), problems, faults)


def software_versions() -> dict[str, str]:
    """Return versions by name, and as ``code`` a hash of this package's code."""
    versions = {each.name.lower(): each.version for each in metadata.distributions() if each.name}
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(PACKAGE)}\0".encode() + path.read_bytes())
    own = {"code": digest.hexdigest()[:12], "python": platform.python_version()}
    if torch.cuda.is_available():
        own["cuda"] = str(torch.version.cuda)
        own["nccl"] = str(torch.cuda.nccl.version())  # type: ignore[no-untyped-call]
    return versions | own


def _space_problems(config: CheckConfig) -> list[str]:
    free = shutil.disk_usage(config.folder).free if config.folder.exists() else config.free_bytes
    if free >= config.free_bytes:
        return []
    return [
        f"{config.folder} has {free / 2**30:,.1f} GiB free, this run's checkpoints need "
        f"{config.free_bytes / 2**30:,.1f} GiB: free some or name another checkpoint.dir"
    ]


def _gpu_faults(rank: Rank) -> list[str]:
    """Return the faults of this rank's GPU: missing, in use, broken, or with wrong results."""
    try:
        require_granted_gpus()
        if not torch.cuda.is_available():
            return []
        index = own_gpu(rank)
        torch.cuda.set_device(index)
        free, total = torch.cuda.mem_get_info()
        if free < GPU_MEMORY_FREE * total:
            used = (total - free) / 2**30
            return [f"GPU {index}: another process uses {used:.1f} GiB"]
        matrix = torch.arange(MATMUL_SIZE**2, dtype=torch.float64).sin().view(MATMUL_SIZE, -1)
        vector = torch.arange(MATMUL_SIZE, dtype=torch.float64).cos()
        if not torch.allclose((matrix.cuda() @ vector.cuda()).cpu(), matrix @ vector):
            return [f"GPU {index} computes a wrong matrix product"]
    except (UnfitNodeError, InputError) as error:
        return [str(error)]
    except RuntimeError as error:
        return [f"GPU of local rank {rank.local_index}: {str(error).splitlines()[0]}"]
    return []
