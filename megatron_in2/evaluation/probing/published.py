"""Reads the published probes (VaLProbing-32K) through ``datasets`` into files of our form."""

import json
from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.files import atomic_file

PUBLISHED_DATASET = "In2Training/VaLProbing-32K"

_SPLITS = {
    "document_bi_32k": "document",
    "code_backward_32k": "code",
    "database_forward_32k": "database",
}


def write_published_probes(name: str, output: Path) -> dict[str, int]:
    """Write ``output/TASK.jsonl`` for each published split.

    Args:
        name: the data set on the hub, or a local folder that ``datasets.load_dataset`` reads.
        output: folder for the probes.

    Returns:
        Task -> probes written.

    Raises:
        InputError: the data set cannot be had, or holds none of the published splits.
    """
    import datasets

    try:
        splits = datasets.load_dataset(name)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"data set {name} cannot be read: {reason}") from error
    written = {}
    for split, task in _SPLITS.items():
        if split not in splits:
            continue
        units = 1 + max(splits[split]["position_id"])
        with atomic_file(output / f"{task}.jsonl") as stream:
            for record in splits[split]:
                probe = _probe(record, f"{name}/{split}") | {"units": units, "task": task}
                stream.write(json.dumps(probe, ensure_ascii=False) + "\n")
        written[task] = len(splits[split])
    if not written:
        raise InputError(f"data set {name} has splits {', '.join(splits)}, none of {list(_SPLITS)}")
    return written


def _probe(record: dict[str, Any], where: str) -> dict[str, Any]:
    """Take what probes have; the published rows hold a single blank where a field is absent."""
    completion = record.get("completion")
    if completion in (None, " "):
        completion = f"{record.get('label')}\n{record.get('description')}"
    try:
        return {
            "prompt": record["prompt"],
            "completion": completion,
            "position_id": int(record["position_id"]),
            "set_id": record["set_id"],
        }
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"data set {where}: a row lacks or misstates {error}") from error
