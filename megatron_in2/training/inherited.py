"""What a run takes from the checkpoint that it starts from, where its configuration is silent."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_in2.checkpoint.folder import (
    complete_steps,
    read_config,
    read_model_config,
    resolve_checkpoint,
)

TOKENIZER_PLACES = ("tokenizer", "tokenizer.model")  # in a step


def inherited_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return defaults of the fields that follow from a checkpoint: the model, and its tokenizer.

    The checkpoint is the newest complete step of ``checkpoint.dir``, else
    ``checkpoint.init_from``.

    Args:
        given: the sections and fields that a configuration file and options give.

    Returns:
        Values by full name (``model.num_layers``); none where no checkpoint is named.

    Raises:
        InputError: ``checkpoint.init_from`` is no complete checkpoint.
    """
    checkpoint = given.get("checkpoint") or {}
    steps = complete_steps(Path(checkpoint["dir"])) if checkpoint.get("dir") else []
    if steps:
        # Not the step's own tokenizer: the run may remove this step while it still needs that.
        tokenizer = read_config(steps[-1]).get("data", {}).get("tokenizer_model")
        return _defaults(steps[-1], tokenizer)
    if checkpoint.get("init_from"):
        step = resolve_checkpoint(Path(checkpoint["init_from"]))
        places = (step / name for name in TOKENIZER_PLACES)
        return _defaults(step, next((str(place) for place in places if place.exists()), None))
    return {}


def _defaults(step: Path, tokenizer: str | None) -> dict[str, Any]:
    found = dict(_flat("model", asdict(read_model_config(step))))
    return found | ({"data.tokenizer_model": tokenizer} if tokenizer else {})


def _flat(prefix: str, values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return nested fields by their full names."""
    pairs = []
    for name, value in values.items():
        inner = _flat(f"{prefix}.{name}", value) if isinstance(value, dict) else None
        pairs += inner or [(f"{prefix}.{name}", value)]
    return pairs
