"""The formula of memory against the trace, at the real sizes."""

from dataclasses import replace

import pytest

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.training.arithmetic.memory import memory_per_rank
from megatron_in2.training.config import RuntimeConfig, TrainConfig
from megatron_in2.training.step.fullest_row import fullest_row
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
    "TP4": ParallelConfig(4, sequence=True),
    "TP4 without SP": ParallelConfig(4),
    "TP8": ParallelConfig(8, sequence=True),
    "TP2 CP2": ParallelConfig(2, 1, 2, True),
    "TP2 CP4": ParallelConfig(2, 1, 4, True),
    "CP8": ParallelConfig(1, 1, 8),
}
CASES = [
    ("FILM-7B", "TP4", "none"),
    ("FILM-7B", "TP4", "selective"),
    ("FILM-7B", "TP4", "full"),
    ("FILM-7B", "TP4 without SP", "none"),
    ("FILM-7B", "TP8", "none"),
    ("FILM-7B", "TP2 CP2", "none"),
    ("FILM-7B", "TP2 CP4", "selective"),
    ("FILM-7B", "CP8", "none"),
    ("Qwen3-8B", "TP4", "none"),
    ("Qwen3-8B", "TP2 CP2", "full"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "layout", "recompute"), CASES)
def test_the_formula_is_within_3_percent(model: str, layout: str, recompute: str) -> None:
    config = TrainConfig(model=MODELS[model], parallel=LAYOUTS[layout])
    runtime: RuntimeConfig = replace(config.runtime, recompute=recompute)
    config = replace(config, runtime=runtime)
    row = fullest_row(config.data.seq_length, 512, 1, config.parallel.sample_multiple)
    traced = max(peak.total for peak in peaks(run_rank(config, 0, WORLD, 1, row)))
    assert memory_per_rank(config, WORLD).total == pytest.approx(traced, rel=0.03)
