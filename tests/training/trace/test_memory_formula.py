"""The formula of memory against the trace, at the real sizes."""

from dataclasses import replace

import pytest

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.training.arithmetic.memory import Stage, memory_per_rank
from megatron_in2.training.config import Recompute, RuntimeConfig, TrainConfig
from megatron_in2.training.step.fullest_row import fullest_row
from megatron_in2.training.trace.layout import stage_ranks
from megatron_in2.training.trace.program import run_rank
from megatron_in2.training.trace.summary import peaks

WORLD = 128
QWEN3_8B = ModelConfig(
    architecture="qwen3",
    num_layers=36,
    hidden_size=4096,
    num_attention_heads=32,
    num_query_groups=8,
    head_dim=128,
    ffn_hidden_size=12288,
    vocab_size=151936,
    max_position_embeddings=40960,
)
MODELS = {"FILM-7B": ModelConfig(), "Qwen3-8B": QWEN3_8B}
LAYOUTS = {
    "TP2": ParallelConfig(2, sequence=True),
    "TP4": ParallelConfig(4, sequence=True),
    "TP4 without SP": ParallelConfig(4),
    "TP8": ParallelConfig(8, sequence=True),
    "TP2 CP2": ParallelConfig(2, 1, 2, True),
    "TP2 CP4": ParallelConfig(2, 1, 4, True),
    "CP4": ParallelConfig(1, 1, 4),
    "CP8": ParallelConfig(1, 1, 8),
    "TP2 PP2": ParallelConfig(2, 2, 1, True),
    "TP2 PP4": ParallelConfig(2, 4, 1, True),
    "PP2 CP4": ParallelConfig(1, 2, 4),
    "PP4 CP2": ParallelConfig(1, 4, 2),
    "TP2 PP2 CP2": ParallelConfig(2, 2, 2, True),
}
Case = tuple[str, str, Recompute, int, Stage]  # model, layout, recompute, samples of a row, stage
QUICK: list[Case] = [
    ("FILM-7B", "TP2 PP4", "none", 1, "last"),
    ("FILM-7B", "TP2 PP4", "selective", 16, "middle"),
    ("Qwen3-8B", "PP4 CP2", "full", 1, "last"),
]
CASES: list[Case] = [
    ("FILM-7B", "TP4", "none", 1, "first"),
    ("FILM-7B", "TP4", "none", 16, "first"),
    ("FILM-7B", "TP4", "selective", 1, "first"),
    ("FILM-7B", "TP4", "full", 1, "first"),
    ("FILM-7B", "TP4 without SP", "none", 1, "first"),
    ("FILM-7B", "TP8", "none", 1, "first"),
    ("FILM-7B", "TP2", "full", 1, "first"),
    ("FILM-7B", "TP2 CP2", "none", 1, "first"),
    ("FILM-7B", "TP2 CP2", "selective", 16, "first"),
    ("FILM-7B", "TP2 CP2", "full", 1, "first"),
    ("FILM-7B", "TP2 CP4", "none", 64, "first"),
    ("FILM-7B", "CP4", "selective", 1, "first"),
    ("FILM-7B", "CP8", "none", 1, "first"),
    ("FILM-7B", "CP8", "selective", 4, "first"),
    ("FILM-7B", "TP2 PP2", "none", 1, "first"),
    ("FILM-7B", "TP2 PP2", "none", 1, "last"),
    ("FILM-7B", "TP2 PP4", "none", 1, "first"),
    ("FILM-7B", "TP2 PP4", "none", 1, "middle"),
    ("FILM-7B", "PP2 CP4", "selective", 1, "first"),
    ("FILM-7B", "PP4 CP2", "full", 16, "first"),
    ("Qwen3-8B", "TP4", "none", 1, "first"),
    ("Qwen3-8B", "TP4", "selective", 16, "first"),
    ("Qwen3-8B", "TP8", "none", 1, "first"),
    ("Qwen3-8B", "TP2 CP2", "none", 1, "first"),
    ("Qwen3-8B", "TP2 CP2", "full", 1, "first"),
    ("Qwen3-8B", "CP8", "none", 8, "first"),
    ("Qwen3-8B", "TP2 PP4", "none", 1, "first"),
    ("Qwen3-8B", "TP2 PP4", "none", 1, "last"),
    ("Qwen3-8B", "TP2 PP2 CP2", "selective", 1, "first"),
]


def _error(case: Case) -> float:
    """Return the formula's relative error of a stage's peak."""
    model, layout, recompute, samples, stage = case
    parallel = LAYOUTS[layout]
    runtime: RuntimeConfig = replace(TrainConfig().runtime, recompute=recompute)
    config = TrainConfig(model=MODELS[model], parallel=parallel, runtime=runtime)
    ranks = stage_ranks(parallel, WORLD)
    row = fullest_row(config.data.seq_length, 512, samples, parallel.sample_multiple)
    kept = {"first": parallel.pipeline, "middle": parallel.pipeline - 1, "last": 1}[stage]
    trace = run_rank(config, ranks.get(stage, 0), WORLD, kept, row)
    traced = max(peak.total for peak in peaks(trace))
    return memory_per_rank(config, WORLD, stage).total / traced - 1


@pytest.mark.parametrize("case", QUICK)
def test_the_formula_is_within_3_percent(case: Case) -> None:
    assert abs(_error(case)) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_formula_is_within_3_percent_of_many_layouts(case: Case) -> None:
    assert abs(_error(case)) < 0.03
