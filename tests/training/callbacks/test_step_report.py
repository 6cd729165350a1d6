"""The step line: throughput by both conventions, samples, memory, time left."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.training.arithmetic.flops import dense_row_flops, loss_flops
from megatron_in2.training.callbacks.step_report import speed
from megatron_in2.training.step.metrics import StepMetrics
from megatron_in2.training.step.rows import TrainingRows
from tests.conftest import RunTool
from tests.training.conftest import MODEL, SEQ_LENGTH

STEP = StepMetrics(
    step=1,
    consumed_rows=4,
    loss=1.0,
    learning_rate=0.1,
    grad_norm=1.0,
    answer_tokens=10,
    tokens=1000,
    samples=6,
    flops=4e15,
    dense_flops=6e15,
    imbalance=0.0,
    skipped=False,
    seconds=2.0,
)


def test_speed_over_steps_is_what_was_done_over_the_time_it_took() -> None:
    slower = replace(STEP, seconds=6.0, samples=2)
    assert speed([STEP, slower], ranks=2, peak_flops=1e15) == {
        "tokens_per_second": 250.0,
        "samples_per_second": 1.0,
        "tflops_per_rank": 500.0,
        "dense_tflops_per_rank": 750.0,
        "mfu": 0.5,
        "dense_mfu": 0.75,
    }


def test_without_a_known_peak_there_is_no_mfu() -> None:
    assert not any("mfu" in name for name in speed([STEP], ranks=1))


def test_a_run_counts_its_samples_and_both_conventions(
    reference: tuple[Path, dict], dataset: Path
) -> None:
    """Against the rows themselves, read one by one."""
    rows = TrainingRows(str(dataset), seed=1234)
    model = ModelConfig(**MODEL)
    for step, line in reference[1].items():
        places = rows.at(np.arange(4 * (step - 1), 4 * step))
        lengths = [rows[place].records["length"].astype(np.int64) for place in places]
        assert line["samples"] == sum(int((each > 0).sum()) for each in lengths)
        squares = np.array([int((each**2).sum()) for each in lengths])
        causal = loss_flops(model, SEQ_LENGTH, squares, line["answer_tokens"])
        assert line["flops"] == pytest.approx(causal)
        assert line["dense_flops"] == 4 * dense_row_flops(model, SEQ_LENGTH) > causal
        assert line["samples_per_second"] == pytest.approx(line["samples"] / line["seconds"])
        assert line["tflops_per_rank"] == pytest.approx(causal / line["seconds"] / 1e12)
        shares = {name: each for name, each in line.items() if name.startswith("trained_share/")}
        assert sum(shares.values()) == pytest.approx(1)
        assert len(shares) == len(rows.kinds) - 1  # padding has none
        assert "mfu" not in line  # no GPU, no peak
        assert ("memory_resident_gib" in line) == (step in (1, len(reference[1])))


def test_the_step_line(
    tmp_path: Path, run_tool: RunTool, write_config: Callable[[Path], Path]
) -> None:
    config = write_config(tmp_path / "run")
    options = ("--schedule.exit_after_steps=2", "--data.validation=")
    result = run_tool("train", "--config", config, *options)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if re.match(r"step +\d+/6", line)]
    assert len(lines) == 2  # the first and the last
    for line in lines:
        assert re.fullmatch(
            r"step +\d/6 \| loss \d\.\d{4} \| lr \S+ \| grad norm \S+ \| trained on \S+ % \| "
            r"[\d,]+ tokens/s \| \S+ samples/s \| \S+ TFLOP/s a rank \(dense \S+\) \| "
            r"resident \d\.\d\d GiB \| left \d:\d\d:\d\d",
            line,
        ), line
