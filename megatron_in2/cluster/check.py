"""Checks the nodes of a job together, and names those that fail.

Every rank inspects its own node and GPU. Rank 0 collects the findings through the job's key-value
store, which also proves that each node reaches the first one. If nothing is wrong, the ranks
measure an all-reduce.
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
from megatron_in2.cluster.rendezvous import PRINT_SECONDS, join_store, wait_for_all
from megatron_in2.cluster.verdict import VISIBLE_SECONDS, judge
from megatron_in2.errors import InputError
from megatron_in2.parallel.rank import Rank


def check_cluster(
    config: CheckConfig, rank: Rank, check_inputs: Callable[[], object]
) -> str | None:
    """Check all nodes of the job; every rank must call it.

    Args:
        config: the limits and the job's nodes.
        rank: this process.
        check_inputs: called by the first rank of each node; raises InputError if the node does not
            see the run's files.

    Returns:
        On rank 0, one line for the log: nodes, ranks, time and bandwidth of the all-reduce. None
        on other ranks.

    Raises:
        InputError: on rank 0, problems that the user must fix, with their nodes.
        NodeFaultError: on rank 0, nodes that are unfit or do not answer; on another rank, why it
            cannot reach rank 0 or take part in the all-reduce.
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
        verdict = _receive_verdict(store, config, rank, report.node)
    probe_file(config, rank.index).unlink(missing_ok=True)
    if not (verdict.faults or verdict.problems):
        return measure_all_reduce(store, config, rank, report.node)
    if rank.index > 0:
        return None
    wait_for_all(store, "received", [each.rank for each in reports if each.rank], PRINT_SECONDS)
    if verdict.faults:
        raise NodeFaultError(verdict.sick_nodes, verdict.faults + verdict.problems)
    raise InputError("; ".join(verdict.problems))


def _collect_reports(store: Store, config: CheckConfig, rank: Rank) -> list[RankFindings]:
    values = wait_for_all(store, "report", range(rank.world_size), config.timeout_seconds)
    return [RankFindings(**json.loads(value)) for value in values.values()]


def _receive_verdict(store: Store, config: CheckConfig, rank: Rank, node: str) -> Verdict:
    try:
        # Rank 0 may wait this long for the reports, and then for files to become visible.
        store.wait(["verdict"], timedelta(seconds=2 * config.timeout_seconds + VISIBLE_SECONDS))
        verdict = Verdict(**json.loads(store.get("verdict")))
        store.set(f"received/{rank.index}", "")
    except RuntimeError as error:
        fault = f"{node}: rank {rank.index} got no answer from rank 0"
        raise NodeFaultError([], [fault]) from error
    return verdict
