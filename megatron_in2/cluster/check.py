"""Checks the nodes of a job together, and names those that fail.

Every rank looks at its own node and GPU, then rank 0 compares what all found, through the job's
key-value store, which also proves that each node reaches the first. Only when nothing is wrong do
the ranks measure an all-reduce.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta

from torch._C._distributed_c10d import Store

from megatron_in2.cluster.all_reduce import measure_all_reduce
from megatron_in2.cluster.findings import (
    CheckConfig,
    NodeFaultError,
    RankFindings,
    Verdict,
    probe_file,
)
from megatron_in2.cluster.local import inspect_rank
from megatron_in2.cluster.rendezvous import SPEAK_SECONDS, join_store, wait_for_all
from megatron_in2.cluster.verdict import SEEN_SECONDS, judge
from megatron_in2.errors import InputError
from megatron_in2.parallel.rank import Rank


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
    store = join_store(config, rank, report.node)
    store.set(f"report/{rank.index}", json.dumps(asdict(report)))
    reports: list[RankFindings] = []
    if rank.index == 0:
        reports = _collect_reports(store, config, rank)
        verdict = judge(reports, config, rank)
        store.set("verdict", json.dumps(asdict(verdict)))
    else:
        verdict = _hear_verdict(store, config, rank, report.node)
    probe_file(config, rank.index).unlink(missing_ok=True)
    if not (verdict.faults or verdict.problems):
        return measure_all_reduce(store, config, rank, report.node)
    if rank.index > 0:
        return None
    wait_for_all(store, "heard", [each.rank for each in reports if each.rank], SPEAK_SECONDS)
    if verdict.faults:
        raise NodeFaultError(verdict.sick_nodes, verdict.faults + verdict.problems)
    raise InputError("; ".join(verdict.problems))


def _collect_reports(store: Store, config: CheckConfig, rank: Rank) -> list[RankFindings]:
    values = wait_for_all(store, "report", range(rank.world_size), config.timeout_seconds)
    return [RankFindings(**json.loads(value)) for value in values.values()]


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
