"""The trainer's benchmarks at small sizes: they run, agree, and print their tables."""

import json
import re

import pytest
import torch

from tests.conftest import RunTool, assert_refused

SMALL_GPU_CASE = (
    *("--device", "cpu", "--layers", 1, "--hidden-size", 64, "--head-dim", 16),
    *("--seq-length", 64, "--steps", 1, "--rows", 1),
)


def _tables(output: str) -> list[list[str]]:
    """Rows of the printed tables, without the headings."""
    lines = [line for line in output.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.slow
def test_contenders_train_the_same_model(run_tool: RunTool) -> None:
    result = run_tool(
        "benchmarks/training",
        *("--without-litgpt", "--layers", 1, "--hidden-size", 64),
        *("--seq-length", 64, "--rows", 2, "--turns", 2, "--answer-share", 0.1),
    )
    assert result.returncode == 0, result.stderr
    agreed = re.search(r"losses of 4 steps agree to (\S+) relative", result.stdout)
    assert agreed is not None
    assert float(agreed[1]) <= 1e-4
    heading, *rows = _tables(result.stdout)
    assert [row[0] for row in rows] == ["ours, answers only", "ours, all logits", "Hugging Face"]
    assert all(len(row) == len(heading) for row in rows)
    assert rows[2][heading.index("x Hugging Face")] == "1.00"


@pytest.mark.slow
def test_data_path_and_opening_are_timed(run_tool: RunTool) -> None:
    result = run_tool(
        "benchmarks/data_loading",
        *("--seq-length", 256, "--rows", 8, "--batches", 1, "--sizes", "[10, 200]"),
    )
    assert result.returncode == 0, result.stderr
    rows = _tables(result.stdout)
    assert [row[0] for row in rows] == ["samples a row", "1", "4", "256", "rows", "10", "200"]


@pytest.mark.slow
def test_the_head_costs_less_at_answers_only(run_tool: RunTool) -> None:
    result = run_tool("benchmarks/head", "--tokens", 256, "--hidden-size", 64, "--repeats", 1)
    assert result.returncode == 0, result.stderr
    assert "| together | 10.49 GB | 0.21 GB |" in result.stdout
    everywhere, answers = _tables(result.stdout)[-2:]
    assert (everywhere[0], answers[0]) == ("everywhere", "at answers only")
    assert float(answers[3]) < float(everywhere[3])  # GB


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: the benchmark would run")
def test_without_a_gpu_the_benchmark_says_so(run_tool: RunTool) -> None:
    result = run_tool("benchmarks/gpu")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("no GPU is here")


def test_a_case_of_the_gpu_benchmark_runs_on_a_cpu(run_tool: RunTool) -> None:
    case = {"samples": 4, "recompute": "full"}
    result = run_tool("benchmarks/gpu", *SMALL_GPU_CASE, "--case", json.dumps(case))
    assert result.returncode == 0, result.stderr
    measured = json.loads(result.stdout.splitlines()[-1])
    assert measured["tokens"] == 64
    # Several samples in a row cost less attention, and the head runs at answers only.
    assert 0 < measured["causal_flops"] < measured["dense_flops"]
    assert measured["loss"] > 0


@pytest.mark.slow
def test_the_gpu_benchmark_reports_every_case(run_tool: RunTool) -> None:
    result = run_tool("benchmarks/gpu", *SMALL_GPU_CASE, "--packed-samples", 4)
    assert result.returncode == 0, result.stderr
    assert "did not run" not in result.stdout
    heading, *ways = _tables(result.stdout.partition("Published")[0])
    assert len(ways) == 2  # without recompute, and with full
    assert all(len(way) == len(heading) for way in ways)
    assert "3,890" in result.stdout


@pytest.mark.slow
def test_a_row_that_cannot_hold_the_samples_is_refused(run_tool: RunTool) -> None:
    case = json.dumps({"samples": 5})
    assert_refused(run_tool("benchmarks/gpu", *SMALL_GPU_CASE, "--case", case), "5 samples")
