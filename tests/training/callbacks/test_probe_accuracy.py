"""Probes during a run: answers as from transformers, in any layout; the run does not change."""

import json
from pathlib import Path

import pytest

from megatron_in2.evaluation.probing.build import BuildConfig, build_probes
from megatron_in2.evaluation.probing.checkpoint_answers import CheckpointAnswerer
from megatron_in2.evaluation.probing.score import Grouping, score_predictions
from megatron_in2.files import read_json_lines
from megatron_in2.templates.film import FILM
from megatron_in2.tokenizers.base import Tokenizer
from tests.conftest import RunTool
from tests.training.callbacks.wandb_files import needs_wandb, read_offline_run
from tests.training.conftest import SEQ_LENGTH, STEPS, Train

NEW_TOKENS = 6


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Tokenizer) -> Path:
    """Ten probes of two contexts; rows hold one or two of them."""
    folder = tmp_path_factory.mktemp("probes")
    facts = [
        {"statement": f"Box {n} is red.", "question": f"Which is box {n}?", "answer": "red"}
        for n in range(12)
    ]
    (folder / "facts.jsonl").write_text("\n".join(map(json.dumps, facts)))
    config = BuildConfig("facts", context_tokens=SEQ_LENGTH - 20, units=9, positions=5, sets=2)
    written, _ = build_probes(folder, folder / "built", config, small_tokenizer, FILM)
    assert written == 10
    return folder / "built" / "facts.jsonl"


def _lines(folder: Path) -> list[dict]:
    return [line for _, line in read_json_lines(folder / "metrics.jsonl")]


def _answers(folder: Path, step: int) -> list[str]:
    lines = read_json_lines(folder / "probe_answers" / f"step_{step:07d}.jsonl")
    return [line["samples"][0] for _, line in lines]


@pytest.fixture(scope="module")
def probed(
    tmp_path_factory: pytest.TempPathFactory, train: Train, probes: Path
) -> tuple[Path, dict[int, dict]]:
    folder = tmp_path_factory.mktemp("probed") / "run"
    return folder, train(folder, *_options(probes), "--logging.tensorboard=true")


def _options(probes: Path) -> tuple[str, ...]:
    return (
        f"--logging.probe={probes}",
        "--logging.probe_interval_steps=4",
        f"--logging.probe_new_tokens={NEW_TOKENS}",
    )


def test_a_run_with_probes_is_the_run_without(
    probed: tuple[Path, dict[int, dict]], reference: tuple[Path, dict[int, dict]], probes: Path
) -> None:
    folder, metrics = probed
    assert set(metrics) == set(reference[1]) == set(range(1, STEPS + 1))
    for step, line in metrics.items():
        for name in ("loss", "grad_norm", "learning_rate"):
            assert line[name] == reference[1][step][name]  # to the bit
    measured = {line["step"]: line for line in _lines(folder) if "probe_accuracy" in line}
    assert list(measured) == [0, 4, STEPS]
    for step, line in measured.items():
        assert line["probe_seconds"] > 0
        assert 1 <= line["probe_passes"] <= NEW_TOKENS
        places = [value for name, value in line.items() if name.startswith("probe_accuracy/")]
        assert len(places) == 5  # of each context's five positions
        predictions = folder / "probe_answers" / f"step_{step:07d}.jsonl"
        report = score_predictions(probes, predictions, Grouping(bins=8))
        assert report.average == pytest.approx(line["probe_accuracy"])


def _probe_values(line: dict) -> dict[str, float]:
    return {name: value for name, value in line.items() if name.startswith("probe_")}


def test_tensorboard_has_the_values_of_the_metrics_file(
    probed: tuple[Path, dict[int, dict]],
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = probed
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("probe_")]
    found = {(event.step, tag): event.value for tag in tags for event in events.Scalars(tag)}
    expected = {
        (line["step"], name): value
        for line in _lines(folder)
        for name, value in _probe_values(line).items()
    }
    assert len({name for _, name in expected}) == 8  # accuracy, five positions, seconds, passes
    assert {step for step, _ in expected} == {0, 4, STEPS}
    assert found == pytest.approx(expected, rel=1e-6)  # events are float32


@needs_wandb
@pytest.mark.slow
def test_weights_and_biases_has_the_values_of_the_metrics_file(
    train: Train, probes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "run"
    train(folder, *_options(probes), "--logging.wandb_project=in2", nproc=2)
    (start,) = (folder / "wandb").glob("offline-run-*")
    *_, history = read_offline_run(start)
    logged = [{"step": line["step"], **_probe_values(line)} for line in history]
    expected = [{"step": line["step"], **_probe_values(line)} for line in _lines(folder)]
    assert [line for line in logged if len(line) > 1] == [
        line for line in expected if len(line) > 1
    ]
    assert [line["step"] for line in logged if len(line) > 1] == [0, 4, STEPS]


def test_the_answers_are_those_of_transformers(
    probed: tuple[Path, dict[int, dict]], probes: Path, tmp_path: Path, run_tool: RunTool
) -> None:
    folder, _ = probed
    exported = tmp_path / "exported"
    arguments = ("--input", folder, "--output", exported)
    done = run_tool("convert_checkpoint", "megatron-to-hf", *arguments)
    assert done.returncode == 0, done.stderr
    answerer = CheckpointAnswerer(exported, NEW_TOKENS, batch_size=5)
    expected = [each["samples"][0] for each in answerer.answer(list(read_json_lines(probes)))]
    assert _answers(folder, STEPS) == expected
    assert _answers(folder, 0) != expected  # the control: other weights answer otherwise


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nproc", "layout"),
    [
        (2, ("--parallel.tensor=2", "--parallel.sequence=true")),
        (2, ("--parallel.tensor=2", "--runtime.logits=all")),
        (2, ("--parallel.pipeline=2",)),
        (2, ("--parallel.context=2",)),
        (2, ()),
        (4, ("--parallel.tensor=2", "--parallel.sequence=true", "--parallel.pipeline=2")),
        (4, ("--parallel.context=2",)),
    ],
    ids=["tp-sp", "tp-all", "pp", "cp", "dp", "tp-pp", "cp-dp"],
)
def test_every_layout_gives_the_same_answers(
    nproc: int,
    layout: tuple[str, ...],
    probed: tuple[Path, dict[int, dict]],
    train: Train,
    probes: Path,
    tmp_path: Path,
) -> None:
    one, start = probed[0], tmp_path / "start"
    options = (f"--checkpoint.init_from={one}", *_options(probes))
    train(start, *options, *layout, "--schedule.steps=1", nproc=nproc)
    assert _answers(start, 0) == _answers(one, STEPS)


def test_bad_probes(probes: Path, tmp_path: Path, run_tool: RunTool, write_config) -> None:
    long = tmp_path / "long.jsonl"
    record = json.loads(probes.read_text().splitlines()[0])
    long.write_text(json.dumps({**record, "prompt": record["prompt"] * 9}))
    config = write_config(tmp_path / "run")
    done = run_tool("train", "--config", config, "--nproc", 2, f"--logging.probe={long}")
    assert done.returncode == 2
    assert "long.jsonl:1: prompt and answer take" in done.stderr
    assert "data.seq_length=512: build shorter probes" in done.stderr
