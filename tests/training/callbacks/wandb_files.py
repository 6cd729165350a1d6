"""Reads back what Weights & Biases writes offline."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

needs_wandb = pytest.mark.skipif(
    find_spec("wandb") is None, reason="the package wandb is not installed (pip install wandb)"
)


def read_offline_run(folder: Path) -> tuple[str, str, dict, list[dict]]:
    """Return what one start logged: run id, project, configuration, values in order."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    (file,) = folder.glob("run-*.wandb")
    store = DataStore()
    store.open_for_scan(str(file))
    run, config, history = None, {}, []
    while (data := store.scan_data()) is not None:
        record = Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            run = record.run
            config = {item.key: json.loads(item.value_json) for item in run.config.update}
        elif record.HasField("history"):
            history.append(
                {
                    item.key or ".".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
            )
    assert run is not None
    return run.run_id, run.project, config, history
