"""Small runs of four ranks that are both traced and measured."""

from dataclasses import dataclass, replace
from typing import Any

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.data.packed.dataset import Row
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.training.config import DataConfig, RuntimeConfig, ScheduleConfig, TrainConfig
from megatron_in2.training.step.fullest_row import fullest_row

RANKS = 4
LENGTH = 512
SIZES: dict[str, Any] = {
    "num_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 8,
    "num_query_groups": 4,
    "head_dim": 8,
    "ffn_hidden_size": 160,
    "vocab_size": 1003,
    "max_position_embeddings": LENGTH,
}


@dataclass(frozen=True)
class Case:
    """A run, the samples of its rows, and its micro-batches a rank."""

    config: TrainConfig
    samples: int = 1
    micro_batches: int = 4

    @property
    def row(self) -> Row:
        return fullest_row(LENGTH, 24, self.samples, self.config.parallel.sample_multiple)


def run(parallel: ParallelConfig, family: str = "mistral", **runtime: Any) -> TrainConfig:
    """Return the configuration of a small run in float32."""
    return TrainConfig(
        model=ModelConfig(architecture=family, **SIZES),
        data=DataConfig(seq_length=LENGTH),
        parallel=parallel,
        schedule=ScheduleConfig(global_batch_rows=16),
        runtime=replace(RuntimeConfig(dtype="float32"), **runtime),
    )


def _tied(config: TrainConfig) -> TrainConfig:
    return replace(config, model=replace(config.model, tie_word_embeddings=True))


CASES = {
    "TP2+SP CP2": Case(run(ParallelConfig(2, 1, 2, True)), samples=3),
    "TP4 qwen2": Case(run(ParallelConfig(4), "qwen2")),
    "TP2+SP DP2 selective": Case(run(ParallelConfig(2, sequence=True), recompute="selective"), 5),
    "PP4 qwen3": Case(run(ParallelConfig(1, 4), "qwen3")),
    "PP2 CP2 full, tied llama": Case(
        _tied(run(ParallelConfig(1, 2, 2), "llama", recompute="full")), samples=2
    ),
    "PP2 TP2+SP selective": Case(run(ParallelConfig(2, 2, 1, True), recompute="selective")),
    "DP4 all logits": Case(run(ParallelConfig(), logits="all"), samples=7),
    "DP4 bfloat16": Case(run(ParallelConfig(), dtype="bfloat16")),
}
