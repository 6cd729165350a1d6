"""What is checked, what one rank finds, and what rank 0 makes of all of it.

Findings are of two sorts: *problems*, which the user fixes (a missing file, another package
version), and *faults*, which make a node unfit for this job.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

EXIT_UNFIT_NODES = 69  # sysexits' EX_UNAVAILABLE


@dataclass(frozen=True)
class CheckConfig:
    """What is checked and how long the nodes may take.

    Args:
        nodes: names of the job's nodes, in the order of their ranks.
        folder: directory that every node must be able to write and all must share.
        free_bytes: space that must be free in it.
        megabytes: size of the all-reduce, in units of 2**20 bytes.
        timeout_seconds: for every rank to report, and for the collectives.
    """

    nodes: Sequence[str]
    folder: Path
    free_bytes: float
    megabytes: int
    timeout_seconds: float


@dataclass(frozen=True)
class RankFindings:
    """What one rank found.

    Args:
        rank: its index in the world.
        node: its node's name.
        software: what must be equal everywhere: versions of Python, of every installed package,
            of CUDA and of NCCL, and a hash of this package's code.
        problems: what the user mends.
        faults: why the node is unfit.
    """

    rank: int
    node: str
    software: dict[str, str]
    problems: list[str]
    faults: list[str]


@dataclass(frozen=True)
class Verdict:
    """What rank 0 makes of all reports; empty lists mean that the job may start."""

    problems: list[str]
    faults: list[str]
    sick_nodes: list[str]


class NodeFaultError(RuntimeError):
    """Nodes are unfit for the job; ``nodes`` names them, the message says why."""

    def __init__(self, nodes: list[str], faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.nodes = nodes


def node_of_rank(index: int, config: CheckConfig, ranks_per_node: int) -> str:
    """Name the node that a rank runs on; ranks fill one node after the other."""
    place = index // ranks_per_node
    return config.nodes[place] if place < len(config.nodes) else socket.gethostname()


def probe_file(config: CheckConfig, index: int) -> Path:
    """Return the file by which a rank shows that it writes to the shared directory."""
    return config.folder / f".seen-by-rank-{index}"
