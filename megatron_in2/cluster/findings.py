"""The records of the check: limits, the findings of one rank, the verdict of rank 0.

There are two kinds of findings: *problems*, which the user must fix (a missing file, a different
package version), and *faults*, which make a node unfit for this job.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

EXIT_UNFIT_NODES = 69  # sysexits' EX_UNAVAILABLE


@dataclass(frozen=True)
class CheckConfig:
    """The job's nodes and the limits of the check.

    Args:
        nodes: names of the job's nodes, in the order of their ranks.
        folder: directory that all nodes must share and be able to write to.
        free_bytes: space that must be free in it.
        megabytes: size of the all-reduce, in units of 2**20 bytes.
        timeout_seconds: for the ranks' reports, and for collectives.
    """

    nodes: Sequence[str]
    folder: Path
    free_bytes: float
    megabytes: int
    timeout_seconds: float


@dataclass(frozen=True)
class RankFindings:
    """The findings of one rank.

    Args:
        rank: its global index.
        node: name of its node.
        software: versions that must be equal on all nodes: Python, every installed package, CUDA,
            NCCL, and a hash of this package's code.
        problems: what the user must fix.
        faults: why the node is unfit.
    """

    rank: int
    node: str
    software: dict[str, str]
    problems: list[str]
    faults: list[str]


@dataclass(frozen=True)
class Verdict:
    """Rank 0's decision from all reports; the job may start if the lists are empty."""

    problems: list[str]
    faults: list[str]
    sick_nodes: list[str]


class NodeFaultError(RuntimeError):
    """Nodes are unfit for the job; ``nodes`` has their names, the message the reasons."""

    def __init__(self, nodes: list[str], faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.nodes = nodes


def node_of_rank(index: int, config: CheckConfig, ranks_per_node: int) -> str:
    """Return the name of a rank's node; ranks fill one node after the other."""
    place = index // ranks_per_node
    return config.nodes[place] if place < len(config.nodes) else socket.gethostname()


def probe_file(config: CheckConfig, index: int) -> Path:
    """Return the file that a rank creates to show that it shares the directory."""
    return config.folder / f".seen-by-rank-{index}"
