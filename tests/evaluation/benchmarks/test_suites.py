"""Suites of the harness: their tasks exist, RULER is generated offline, gaps are named."""

from pathlib import Path

import pytest

from megatron_in2.errors import InputError
from megatron_in2.evaluation.benchmarks import harness_run
from megatron_in2.evaluation.benchmarks.catalogue import BenchmarkScore
from megatron_in2.evaluation.benchmarks.harness_config import HarnessConfig
from megatron_in2.evaluation.benchmarks.report import ModelScores, benchmark_table
from megatron_in2.evaluation.benchmarks.ruler import NEEDS
from megatron_in2.evaluation.benchmarks.suites import SUITES, run_name
from tests.evaluation.benchmarks.test_ruler import GENERATED
from tests.evaluation.conftest import LONGEST


def test_names_and_published_scores() -> None:
    assert len(SUITES["ruler"].tasks) == 13
    assert run_name("ruler", 32768) == "ruler_32768"
    assert run_name("ruler", 32768, "ruler_vt") == "ruler_32768/ruler_vt"
    assert run_name("longbench2", None) == "longbench2"
    mine = ModelScores("mine", {"ruler_32768": BenchmarkScore(80, 13)})
    table = benchmark_table(mine, None)
    assert "| ruler_32768 | 80.0 | 75.4 | 86.9 |" in table
    assert "Llama-3.1-8B 87.4, ProLong 89.3, Qwen3-8B 91.2" in table
    other = ModelScores("mine", {"ruler_4096": BenchmarkScore(80, 13)})
    assert "ProLong" not in benchmark_table(other, None)
    with pytest.raises(InputError, match="--lengths 5000: use 4096, 8192"):
        HarnessConfig(Path("x"), ["ruler"], lengths=[5000])


def test_a_long_prompt_keeps_both_ends(tiny_model: Path) -> None:
    model = harness_run._load_model(HarnessConfig(tiny_model, []))
    text = "Begin here. " + "word " * 3000 + "What is it?"
    whole = model.tok_encode(text)
    ids, mask = model.tok_batch_encode([text, "short"], left_truncate_len=101)
    assert ids.shape == mask.shape == (2, 101)
    assert ids[0].tolist() == [*whole[:51], *whole[-50:]]
    short = model.tok_encode("short")
    assert ids[1].tolist()[-len(short) :] == short  # padded on the left
    assert mask[1].sum() == len(short)
    before, behind = model._encode_pair(text, " yes")
    assert len(before) + len(behind) == LONGEST
    assert before[:500] == whole[:500]
    assert before[-500:] == whole[-500:]


@pytest.mark.slow
def test_rulers_synthetic_tasks_are_generated_offline(
    tiny_model: Path,
) -> None:
    config = HarnessConfig(tiny_model, ["ruler", "longbench2"], lengths=[4096], limit=1)
    scores, not_run = harness_run.run_benchmarks(config)
    made = GENERATED - {"ruler_cwe"}  # the small tokenizer needs more than 4,096 tokens for it
    assert set(scores) == {f"ruler_4096/{name}" for name in made}
    wanting = {f"ruler_4096/{name}" for name in (*NEEDS, "ruler_cwe")}
    assert "give longer --lengths" in not_run["ruler_4096/ruler_cwe"]
    assert set(not_run) == {"ruler_4096", *wanting, "longbench2"}
    assert not_run["ruler_4096"] == "no mean: 8 of its 13 tasks were not run"
