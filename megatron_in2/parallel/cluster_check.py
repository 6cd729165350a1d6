"""Checks the nodes of a job together before anything costly starts, and names those that fail.

Every rank looks at its own node and GPU, then all compare what they found with rank 0 through the
job's key-value store, which also proves that each node reaches the first. Only when nothing is
wrong do they measure an all-reduce. Findings are of two sorts: *problems*, which the user mends
(a missing file, another package version), and *faults*, which make a node unfit for this job.
"""

import hashlib
import json
import os
import platform
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib import metadata
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from megatron_in2.errors import InputError
from megatron_in2.parallel.rank import Rank

PACKAGE = Path(__file__).resolve().parent.parent
ROUNDS = 5  # timed all-reduces
EXIT_SICK_NODES = 69  # sysexits' EX_UNAVAILABLE
GPU_MEMORY_FREE = 0.9  # share of a GPU's memory that must be free before the job uses it
MATMUL_SIZE = 2048
SEEN_SECONDS = 30.0  # shared file systems may show a new file late
SPEAK_SECONDS = 10.0  # what rank 0 gets to speak before another rank's end ends the step


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
class RankReport:
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


def check_cluster(
    config: CheckConfig, rank: Rank, check_inputs: Callable[[], object]
) -> str | None:
    """Check all nodes of the job, collectively; every rank calls it, rank 0 speaks for all.

    Args:
        config: what is checked.
        rank: this process.
        check_inputs: raises InputError where this node does not see the run's files; the first
            rank of each node calls it.

    Returns:
        On rank 0 one line for the log: nodes, ranks, the all-reduce's time and bandwidth. None on
        the others.

    Raises:
        InputError: on rank 0, what the user mends, with the nodes that it concerns.
        NodeFaultError: on rank 0, nodes that are unfit or do not answer; on another rank, what
            keeps it from rank 0 or from the all-reduce.
    """
    report = inspect_rank(config, rank, check_inputs)
    store = _join_store(config, rank, report.node)
    store.set(f"report/{rank.index}", json.dumps(asdict(report)))
    reports: list[RankReport] = []
    if rank.index == 0:
        reports = _collect_reports(store, config, rank)
        verdict = judge(reports, config, rank)
        store.set("verdict", json.dumps(asdict(verdict)))
    else:
        verdict = _hear_verdict(store, config, rank, report.node)
    _probe_file(config, rank.index).unlink(missing_ok=True)
    if not (verdict.faults or verdict.problems):
        return _measure(store, config, rank, report.node)
    if rank.index > 0:
        return None
    _wait_for_all(store, "heard", [each.rank for each in reports if each.rank], SPEAK_SECONDS)
    if verdict.faults:
        raise NodeFaultError(verdict.sick_nodes, verdict.faults + verdict.problems)
    raise InputError("; ".join(verdict.problems))


def inspect_rank(config: CheckConfig, rank: Rank, check_inputs: Callable[[], object]) -> RankReport:
    """Look at this rank's node and GPU."""
    problems, faults = [], _gpu_faults(rank)
    if rank.local_index == 0:
        try:
            check_inputs()
        except (InputError, OSError) as error:
            problems.append(str(error))
        problems += _space_problems(config)
    try:
        _probe_file(config, rank.index).touch()
    except OSError as error:
        faults.append(f"{config.folder} is not writable: {error.strerror}")
    node = node_of_rank(rank.index, config, rank.local_world_size)
    return RankReport(rank.index, node, software_versions(), problems, faults)


def node_of_rank(index: int, config: CheckConfig, ranks_per_node: int) -> str:
    """Name the node that a rank runs on; ranks fill one node after the other."""
    place = index // ranks_per_node
    return config.nodes[place] if place < len(config.nodes) else socket.gethostname()


def software_versions() -> dict[str, str]:
    """What must be equal on all nodes: versions by name, and ``code``, a hash of this package."""
    versions = {each.name.lower(): each.version for each in metadata.distributions() if each.name}
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(PACKAGE)}\0".encode() + path.read_bytes())
    own = {"code": digest.hexdigest()[:12], "python": platform.python_version()}
    if torch.cuda.is_available():
        own["cuda"] = str(torch.version.cuda)
        own["nccl"] = str(torch.cuda.nccl.version())  # type: ignore[no-untyped-call]
    return versions | own


def judge(reports: Sequence[RankReport], config: CheckConfig, rank: Rank) -> Verdict:
    """Decide from the reports that came in whether the job may start.

    A rank that did not report, or whose file the first node does not see, makes its node unfit.
    Software is compared with what most ranks have.
    """
    faults: dict[str, list[str]] = {}
    for index in sorted(set(range(rank.world_size)) - {report.rank for report in reports}):
        node = node_of_rank(index, config, rank.local_world_size)
        faults.setdefault(node, []).append(f"rank {index} did not report")
    problems: dict[str, list[str]] = {}
    for report in reports:
        for fault in report.faults:
            faults.setdefault(report.node, []).append(fault)
        if not report.faults and not _is_seen(config, report.rank):
            problem = f"{config.folder} is not the directory that the first node sees"
            problems.setdefault(report.node, []).append(problem)
        for problem in report.problems:
            problems.setdefault(report.node, []).append(problem)
    for node, differences in different_software(reports).items():
        problems.setdefault(node, []).append(differences)
    return Verdict(_by_node(problems), _by_node(faults), sorted(faults))


def different_software(reports: Sequence[RankReport]) -> dict[str, str]:
    """Name the nodes whose software differs from what most ranks have, and in what."""
    if not reports:
        return {}
    names = sorted({name for report in reports for name in report.software})
    usual = {
        name: Counter(report.software.get(name) for report in reports).most_common(1)[0][0]
        for name in names
    }
    found = {}
    for report in reports:
        differences = [
            f"{name} {report.software.get(name, 'is missing')} ({usual[name] or 'not'} elsewhere)"
            for name in names
            if report.software.get(name) != usual[name]
        ]
        if differences:
            found[report.node] = ", ".join(differences)
    return found


def bus_bandwidth(size_bytes: int, seconds: float, world_size: int) -> float:
    """Bytes a second that each rank's link carries in an all-reduce, as NVIDIA's nccl-tests count.

    An optimal all-reduce moves 2 (n - 1) / n times the data over every link.
    """
    return size_bytes / seconds * 2 * (world_size - 1) / world_size


def _space_problems(config: CheckConfig) -> list[str]:
    free = shutil.disk_usage(config.folder).free if config.folder.exists() else config.free_bytes
    if free >= config.free_bytes:
        return []
    return [
        f"{config.folder} has {free / 2**30:,.1f} GiB free, this run's checkpoints need "
        f"{config.free_bytes / 2**30:,.1f} GiB: make room or name another checkpoint.dir"
    ]


def _gpu_faults(rank: Rank) -> list[str]:
    """Try this rank's GPU: it is there, empty, and multiplies as the CPU does."""
    if not torch.cuda.is_available():
        return []
    try:
        index = rank.local_index % torch.cuda.device_count()
        torch.cuda.set_device(index)
        free, total = torch.cuda.mem_get_info()
        if free < GPU_MEMORY_FREE * total:
            used = (total - free) / 2**30
            return [f"GPU {index} holds {used:.1f} GiB of another process"]
        matrix = torch.arange(MATMUL_SIZE**2, dtype=torch.float64).sin().view(MATMUL_SIZE, -1)
        vector = torch.arange(MATMUL_SIZE, dtype=torch.float64).cos()
        if not torch.allclose((matrix.cuda() @ vector.cuda()).cpu(), matrix @ vector):
            return [f"GPU {index} multiplies wrongly"]
    except RuntimeError as error:
        return [f"GPU of local rank {rank.local_index}: {str(error).splitlines()[0]}"]
    return []


def _join_store(config: CheckConfig, rank: Rank, node: str) -> Store:
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        return TCPStore(
            address,
            port,
            world_size=rank.world_size,
            is_master=rank.index == 0,
            timeout=timedelta(seconds=config.timeout_seconds),
            wait_for_workers=False,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        fault = f"{node}: rank {rank.index} does not reach {address}:{port} ({reason})"
        raise NodeFaultError([node], [fault]) from error


def _wait_for_all(store: Store, key: str, ranks: Iterable[int], seconds: float) -> dict[int, bytes]:
    """Take what ranks have set under ``KEY/RANK`` until all have, or the time is up."""
    deadline = time.monotonic() + seconds
    values = {}
    for index in ranks:
        try:
            left = max(deadline - time.monotonic(), 0.1)
            store.wait([f"{key}/{index}"], timedelta(seconds=left))
            values[index] = store.get(f"{key}/{index}")
        except RuntimeError:  # torch's DistStoreError: the time is up
            continue
    return values


def _collect_reports(store: Store, config: CheckConfig, rank: Rank) -> list[RankReport]:
    values = _wait_for_all(store, "report", range(rank.world_size), config.timeout_seconds)
    return [RankReport(**json.loads(value)) for value in values.values()]


def _hear_verdict(store: Store, config: CheckConfig, rank: Rank, node: str) -> Verdict:
    try:
        # Rank 0 may wait this long for the reports, and then for files to be seen.
        store.wait(["verdict"], timedelta(seconds=2 * config.timeout_seconds + SEEN_SECONDS))
        verdict = Verdict(**json.loads(store.get("verdict")))
        store.set(f"heard/{rank.index}", "")
    except RuntimeError as error:
        fault = f"{node}: rank {rank.index} heard nothing from rank 0"
        raise NodeFaultError([], [fault]) from error
    return verdict


def _probe_file(config: CheckConfig, index: int) -> Path:
    return config.folder / f".seen-by-rank-{index}"


def _is_seen(config: CheckConfig, index: int) -> bool:
    deadline = time.monotonic() + SEEN_SECONDS
    while _probe_file(config, index).name not in {each.name for each in config.folder.iterdir()}:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _by_node(findings: dict[str, list[str]]) -> list[str]:
    """One line for each finding: nodes that share it stand before it together."""
    nodes: dict[str, list[str]] = {}
    for node, texts in sorted(findings.items()):
        for text in dict.fromkeys(texts):
            nodes.setdefault(text, []).append(node)
    return [f"{', '.join(names)}: {text}" for text, names in nodes.items()]


def _measure(store: Store, config: CheckConfig, rank: Rank, node: str) -> str | None:
    """All-reduce a few times over all ranks, check the sums, and describe the speed."""
    on_gpu = torch.cuda.is_available()
    # Lets a collective that hangs end in an exception after the time-out.
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    store.set(f"arrived/{rank.index}", "")
    try:
        seconds, is_right = _time_all_reduce(store, config, rank, on_gpu)
    except RuntimeError as error:
        if rank.index > 0:
            time.sleep(SPEAK_SECONDS)
        raise _all_reduce_failure(store, config, rank, node, error) from error
    if not is_right:
        raise NodeFaultError([node], [f"{node}: rank {rank.index} got a wrong sum"])
    if rank.index > 0:
        return None
    size = config.megabytes * 2**20
    return (
        f"{len(config.nodes)} nodes, {rank.world_size} ranks, all alike; all-reduce of "
        f"{config.megabytes} MiB over {'NCCL' if on_gpu else 'gloo'}: {1e3 * seconds:.1f} ms, "
        f"{bus_bandwidth(size, seconds, rank.world_size) / 1e9:.2f} GB/s on each rank's link"
    )


def _time_all_reduce(
    store: Store, config: CheckConfig, rank: Rank, on_gpu: bool
) -> tuple[float, bool]:
    """Return the seconds of one all-reduce, and whether its sum is right."""
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=PrefixStore("collective", store),
        rank=rank.index,
        world_size=rank.world_size,
        timeout=timedelta(seconds=config.timeout_seconds),
    )
    try:
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else "cpu"
        data = torch.full((config.megabytes * 2**18,), rank.index + 1.0, device=device)
        _all_reduce(data, on_gpu)  # this one connects the ranks too
        is_right = bool((data == rank.world_size * (rank.world_size + 1) / 2).all())
        started = time.perf_counter()
        for _ in range(ROUNDS):
            _all_reduce(data, on_gpu)
        return (time.perf_counter() - started) / ROUNDS, is_right
    finally:
        dist.destroy_process_group()


def _all_reduce_failure(
    store: Store, config: CheckConfig, rank: Rank, node: str, error: RuntimeError
) -> NodeFaultError:
    """Name the nodes whose ranks never came to the all-reduce; else say what this rank saw."""
    reason = str(error).splitlines()[0]
    faults = [f"{node}: all-reduce failed on rank {rank.index}: {reason}"]
    arrived = _wait_for_all(store, "arrived", range(rank.world_size), 1.0) if not rank.index else {}
    absent = sorted(set(range(rank.world_size)) - set(arrived)) if not rank.index else []
    nodes = [node_of_rank(index, config, rank.local_world_size) for index in absent]
    faults += [
        f"{name}: rank {index} did not come" for name, index in zip(nodes, absent, strict=True)
    ]
    return NodeFaultError(sorted(set(nodes)), faults)


def _all_reduce(data: torch.Tensor, on_gpu: bool) -> None:
    dist.all_reduce(data)
    if on_gpu:
        torch.cuda.synchronize()
