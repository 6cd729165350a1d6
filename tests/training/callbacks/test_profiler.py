"""Chosen steps of chosen ranks are traced; others are not."""

import gzip
import json
from pathlib import Path

import pytest

from tests.training.conftest import Train


@pytest.mark.slow
def test_a_trace_has_the_chosen_steps(
    tmp_path: Path, train: Train, reference: tuple[Path, dict]
) -> None:
    folder = tmp_path / "run"
    metrics = train(
        folder, "--logging.profile_steps=3-4", "--schedule.exit_after_steps=5", "--data.validation="
    )
    (trace,) = (folder / "profile").iterdir()
    assert trace.name == "rank0_steps3-4.json.gz"
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    names = {event["name"] for event in events if "name" in event}
    assert {"step 3", "step 4"} <= names
    assert not {"step 2", "step 5"} & names
    assert "aten::mm" in names
    for step, line in metrics.items():
        assert line["loss"] == reference[1][step]["loss"]


@pytest.mark.slow
def test_ranks_are_chosen_and_a_run_that_stops_midway_writes_its_trace(
    tmp_path: Path, train: Train
) -> None:
    folder = tmp_path / "run"
    options = ["--logging.profile_steps=2-6", "--logging.profile_ranks=1", "--data.validation="]
    train(folder, *options, "--schedule.exit_after_steps=2", nproc=2)
    assert [path.name for path in (folder / "profile").iterdir()] == ["rank1_steps2-2.json.gz"]
