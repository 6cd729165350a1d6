"""All stages on a tiny configuration, by the commands that a user types."""

import json
from pathlib import Path

import pytest

from megatron_in2.tokenizers.base import Tokenizer
from tests.conftest import ROOT, RunTool
from tests.training.conftest import MODEL, SEQ_LENGTH


def test_from_a_corpus_to_a_probed_model(
    tmp_path: Path, run_tool: RunTool, corpus_file: Path, small_tokenizer: Tokenizer
) -> None:
    def run(tool: str, *arguments: object) -> str:
        result = run_tool(tool, *arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    tokenizer = str(small_tokenizer.path)
    synthesis = tmp_path / "synthesis.yaml"
    synthesis.write_text(
        f"corpus: {{paths: [{corpus_file}], max_documents: 300}}\n"
        "segments: {min_tokens: 24}\n"
        f"composition: {{min_tokens: 100, max_tokens: {SEQ_LENGTH}}}\n"
        "mixture: {fine_grained: 150, integration: 10, short: 20}\n"
        f"tokenizer_model: {tokenizer}\n"
    )
    samples, prefix = tmp_path / "samples.jsonl", tmp_path / "in2"
    run("synthesize_in2", "--config", synthesis, "--output", samples)
    packed = run(
        "preprocess_in2",
        *("--input", samples, "--output-prefix", prefix, "--tokenizer-model", tokenizer),
        *("--seq-length", SEQ_LENGTH, "--validation-fraction", 0.1, "--workers", 2),
    )
    assert "train:" in packed
    assert "valid:" in packed

    checkpoints, export = tmp_path / "checkpoints", tmp_path / "huggingface"
    options = {
        **{f"model.{name}": value for name, value in MODEL.items()},
        "data.train": prefix,
        "data.validation": f"{prefix}_valid",
        "data.tokenizer_model": tokenizer,
        "data.seq_length": SEQ_LENGTH,
        "parallel.tensor": 2,
        "parallel.sequence": "true",
        "optimizer.lr": 5e-3,
        "optimizer.min_lr": 5e-4,
        "schedule.steps": 12,
        "checkpoint.dir": checkpoints,
    }
    log = run(
        "train",
        *("--config", ROOT / "configs" / "tiny.yaml", "--nproc", 2),
        *(f"--{name}={value}" for name, value in options.items()),
    )
    assert "TP2 PP1 CP1 DP1 SP" in log
    lines = [json.loads(line) for line in (checkpoints / "metrics.jsonl").read_text().splitlines()]
    validation = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert validation[-1] < validation[0] - 0.3

    converted = run(
        "convert_checkpoint",
        "megatron-to-hf",
        "--input",
        checkpoints,
        "--output",
        export,
        "--verify",
    )
    assert "equal bit for bit" in converted

    probes, answers = tmp_path / "probes", tmp_path / "predictions.jsonl"
    run("probe", "pieces", "--config", synthesis, "--output", tmp_path / "pieces")
    run(
        "probe",
        *("build", "--pieces", tmp_path / "pieces", "--output", probes, "--positions", 4),
        *("--sets", 1, "--context-tokens", SEQ_LENGTH - 100, "--tokenizer-model", tokenizer),
    )
    labels = probes / "document.jsonl"
    run(
        "probe",
        *("generate", "--model", export, "--probes", labels, "--output", answers),
        *("--max-new-tokens", 8),
    )
    score = tmp_path / "score.json"
    table = run(
        "probe",
        *("score", "--labels", labels, "--predictions", answers, "--output", score, "--bins", 4),
    )
    assert "Avg" in table
    depths = json.loads(score.read_text())["depths"]
    assert [depth["probes"] for depth in depths] == [1, 1, 1, 1]
    assert all(depth["log_likelihood"] == pytest.approx(-7, abs=7) for depth in depths)
    picture = tmp_path / "curve.png"
    run("probe", "plot", "--reports", score, "--output", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
