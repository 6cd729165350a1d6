"""The planner: every offered layout is valid, and memory changes in the right direction."""

from dataclasses import replace
from pathlib import Path

import pytest

from megatron_in2.errors import InputError
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.training.arithmetic.gpu_types import GPU_TYPES, read_gpu
from megatron_in2.training.arithmetic.memory import memory_per_rank
from megatron_in2.training.arithmetic.plan import rank_layouts
from megatron_in2.training.config import RuntimeConfig, TrainConfig

A100 = read_gpu(GPU_TYPES, "a100-80g")


def test_every_offered_layout_is_valid_and_fitting_ones_come_first() -> None:
    config = TrainConfig()
    layouts = rank_layouts(config, 128, A100)
    for layout in layouts:
        replace(config, parallel=layout.parallel).validate(128)
    fitting = [layout.fits for layout in layouts]
    assert fitting == sorted(fitting, reverse=True)
    times = [layout.step_seconds for layout in layouts if layout.fits]
    assert times == sorted(times)


def test_nothing_fits_a_small_gpu() -> None:
    tiny = replace(A100, memory_gib=1)
    assert not any(layout.fits for layout in rank_layouts(TrainConfig(), 8, tiny))


def test_recomputation_and_traffic_cost_time() -> None:
    layouts = {
        (each.parallel, each.recompute): each for each in rank_layouts(TrainConfig(), 128, A100)
    }
    seconds = {}
    for parallel in (ParallelConfig(4, sequence=True), ParallelConfig(2, 1, 2, True)):
        none, selective, full = (
            layouts[parallel, mode].step_seconds for mode in ("none", "selective", "full")
        )
        assert none < selective < 1.02 * none
        assert 1.3 * none < full < 1.4 * none
        seconds[parallel.context] = none
    assert seconds[2] < seconds[1]  # TP2 CP2 moves less than TP4


def test_memory_depends_on_the_layout() -> None:
    config = TrainConfig(parallel=ParallelConfig(tensor=4, sequence=True))
    base = memory_per_rank(config, 128)
    full = memory_per_rank(replace(config, runtime=RuntimeConfig(recompute="full")), 128)
    selective = memory_per_rank(replace(config, runtime=RuntimeConfig(recompute="selective")), 128)
    assert full.activations < selective.activations < base.activations
    context = replace(config, parallel=ParallelConfig(tensor=4, context=2, sequence=True))
    # Half the tokens, but keys and values of all context ranks, and the attention's output twice.
    halves = memory_per_rank(context, 128).activations / base.activations
    assert 0.5 < halves < 0.53
    assert memory_per_rank(config, 8).optimizer == pytest.approx(16 * base.optimizer)
    everywhere = replace(config, runtime=replace(config.runtime, logits="all"))
    assert memory_per_rank(everywhere, 128).head > base.head + 2 * 4 * 32768 * 8000 - 1


def test_an_incomplete_gpu_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gpus.yaml").write_text("x: {bf16_tflops: 1}\n")
    with pytest.raises(InputError, match="x lacks attained, attention_attained, attention_kernel"):
        read_gpu(tmp_path / "gpus.yaml", "x")
