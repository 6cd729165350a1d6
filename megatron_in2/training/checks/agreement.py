"""Checks that every rank of a run sees the same files, before anything is built on them."""

import socket
from collections import Counter
from dataclasses import asdict
from typing import Any

import torch.distributed as dist

from megatron_in2.files import sha256_of_text
from megatron_in2.parallel.world import World
from megatron_in2.training.checks.preflight import RunInputs
from megatron_in2.training.config import TrainConfig

RankView = dict[str, str]


def view_of_rank(config: TrainConfig, inputs: RunInputs) -> RankView:
    """Return what this rank sees: data sets, tokenizer, step to resume from, configuration.

    A data set is identified by its manifest's hash. The manifest has hash and size of every file,
    and the sizes were compared with the files when the manifest was read.
    """
    resumed = inputs.resume_from[0].name if inputs.resume_from else "none"
    return {
        **inputs.dataset_seals,
        "data.tokenizer_model": inputs.tokenizer.sha256,
        "checkpoint.dir (the step to resume from)": resumed,
        "configuration": sha256_of_text(str(asdict(config))),
    }


def find_disagreement(config: TrainConfig, inputs: RunInputs, world: World) -> str | None:
    """Compare what the ranks see; every rank must call it and gets the same result.

    Returns:
        One line that names the ranks, and their hosts, that see other files than most ranks do;
        None where all see the same.
    """
    views: list[Any] = [None] * world.size
    own = (socket.gethostname(), view_of_rank(config, inputs))
    dist.all_gather_object(views, own)
    return describe_disagreement(views)


def describe_disagreement(views: list[tuple[str, RankView]]) -> str | None:
    """Return the line of :func:`find_disagreement`.

    Args:
        views: (host, view) of each rank.
    """
    found = []
    for name in views[0][1]:
        usual = Counter(view[name] for _, view in views).most_common(1)[0][0]
        others = [
            f"rank {index} on {host} sees {view[name][:12]}"
            for index, (host, view) in enumerate(views)
            if view[name] != usual
        ]
        if others:
            found.append(f"{name}: {', '.join(others)}; the other ranks see {usual[:12]}")
    if not found:
        return None
    return f"{'; '.join(found)}: give every node the same files, or name ones that all share"
