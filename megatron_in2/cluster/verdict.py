"""Decides from the findings of all ranks whether the job may start."""

import time
from collections import Counter
from collections.abc import Sequence

from megatron_in2.cluster.findings import (
    CheckConfig,
    RankFindings,
    Verdict,
    node_of_rank,
    probe_file,
)
from megatron_in2.parallel.rank import Rank

VISIBLE_SECONDS = 30.0  # shared file systems may show a new file late


def judge(reports: Sequence[RankFindings], config: CheckConfig, rank: Rank) -> Verdict:
    """Decide from the reports that arrived whether the job may start.

    A rank that did not report makes its node unfit. A rank whose file the first node does not see
    is a problem of the directory. Software is compared with that of most ranks.
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


def different_software(reports: Sequence[RankFindings]) -> dict[str, str]:
    """Return the differences from most ranks' software as text, by node."""
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


def _is_seen(config: CheckConfig, index: int) -> bool:
    deadline = time.monotonic() + VISIBLE_SECONDS
    while probe_file(config, index).name not in {each.name for each in config.folder.iterdir()}:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _by_node(findings: dict[str, list[str]]) -> list[str]:
    """Return one line for each finding, with all its nodes in front."""
    nodes: dict[str, list[str]] = {}
    for node, texts in sorted(findings.items()):
        for text in dict.fromkeys(texts):
            nodes.setdefault(text, []).append(node)
    return [f"{', '.join(names)}: {text}" for text, names in nodes.items()]
