"""Layouts ranked by trace, at a small size."""

from dataclasses import replace

import pytest

from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.training.arithmetic.gpu_types import GPU_TYPES, read_gpu
from megatron_in2.training.arithmetic.plan import rank_layouts
from megatron_in2.training.trace.allowance import GIB
from megatron_in2.training.trace.layout import micro_batches_of, step_work
from megatron_in2.training.trace.planner import trace_best, traced_as_table
from megatron_in2.training.trace.stored import TraceStore
from megatron_in2.training.trace.summary import flops_by_operation, traffic
from megatron_in2.training.trace.timeline import play
from megatron_in2.training.trace.traced_row import TracedRow
from tests.training.trace.cases import LENGTH, RANKS, run

A100 = read_gpu(GPU_TYPES, "a100-80g")
CONFIG = run(ParallelConfig(), dtype="bfloat16")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TraceStore:
    return TraceStore(tmp_path_factory.mktemp("traces"))


def test_the_best_layouts_are_traced_and_ranked_by_time(store: TraceStore) -> None:
    found = trace_best(CONFIG, RANKS, A100, rank_layouts(CONFIG, RANKS, A100), 3, store.trace)
    assert len(found) == len({each.parallel for each in found}) == 3
    seconds = [each.work.seconds for each in found]
    assert seconds == sorted(seconds)
    for each in found:  # everything fits: recomputation would only cost
        assert each.recompute == "none"
        assert each.work.recomputed == 0
    table = traced_as_table(found, steps=10).splitlines()
    assert len(table) == 2 + 3
    assert {row.count("|") for row in table} == {13}


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_recomputation_is_taken_where_nothing_cheaper_fits(
    store: TraceStore, recompute: str
) -> None:
    only = [each for each in rank_layouts(CONFIG, RANKS, A100) if each.parallel.model_ranks == 1]
    gpu = replace(A100, memory_gib=_needed(store, recompute))
    (found,) = trace_best(CONFIG, RANKS, gpu, only, 1, store.trace)
    assert found.recompute == recompute
    assert (found.work.recomputed > 0) == (recompute != "none")


def _needed(store: TraceStore, recompute: str) -> float:
    config = run(ParallelConfig(), dtype="bfloat16", recompute=recompute)
    return step_work(config, RANKS, A100, TracedRow(LENGTH, 512, 1), store.trace).needed_gib


def test_nothing_is_returned_where_nothing_fits(store: TraceStore) -> None:
    only = [each for each in rank_layouts(CONFIG, RANKS, A100) if each.parallel.model_ranks == 1]
    tiny = replace(A100, memory_gib=1)  # of which CUDA and NCCL take more
    assert trace_best(CONFIG, RANKS, tiny, only, 3, store.trace) == []


def test_work_of_a_step_does_not_depend_on_how_much_of_it_is_traced(store: TraceStore) -> None:
    """Two micro-batches stand for four: the same FLOPs, traffic and time."""
    config = run(ParallelConfig(2, sequence=True), dtype="bfloat16")
    config = replace(config, schedule=replace(config.schedule, global_batch_rows=8))
    row = TracedRow(LENGTH, 8, 1)
    assert micro_batches_of(config, RANKS) == (4, 2)
    part = step_work(config, RANKS, A100, row, store.trace)
    trace = store.trace(config, 0, RANKS, 4, row)
    line = play(trace.events, A100)
    assert part.seconds == pytest.approx(line.total, rel=0.02)
    assert part.waited == pytest.approx(line.waited / line.total, abs=0.02)
    assert part.tflop == pytest.approx(sum(flops_by_operation(trace.events).values()) / 1e12)
    sent = sum(each.sent for each in traffic(trace.events))
    assert part.sent_gib == pytest.approx(sent / GIB, rel=0.01)
