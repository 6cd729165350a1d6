"""The trace against what autograd and torch.distributed see of the same program on the CPU."""

from collections import Counter
from functools import lru_cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from megatron_in2.training.trace.events import Trace
from megatron_in2.training.trace.layout import stage_ranks
from megatron_in2.training.trace.program import run_rank
from megatron_in2.training.trace.summary import kept_for_backward, traffic
from tests.training.trace.cases import CASES, LENGTH, RANKS, Case
from tests.training.trace.measured import Measured, measure

aten = torch.ops.aten
TOLERANCE = 0.01
RUNS = [
    (name, rank)
    for name, case in CASES.items()
    for rank in stage_ranks(case.config.parallel, RANKS).values()
]
# c10d's operators, by the names of a trace.
OPERATORS = {
    "_allgather_base_": "all_gather",
    "allgather_into_tensor_coalesced_": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_tensor_coalesced_": "reduce_scatter",
    "allreduce_": "all_reduce",
    "broadcast_": "broadcast",
    "send": "send",
    "recv_": "receive",
}


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """The kernel that torch takes on a CPU."""
    if attn_mask is not None:
        attn_mask = torch.empty(attn_mask.shape, dtype=query.dtype, device="meta")
    output: torch.Tensor = aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale
    )[0]
    return output


def _attention_with_a_copy(*arguments: Any, **options: Any) -> torch.Tensor:
    """The root's backward pass keeps its result, beside the output that attention keeps."""
    return _attention(*arguments, **options).square().sqrt()


def _trace(case: Case, rank: int, attention: Any = _attention) -> Trace:
    kernels = {F.scaled_dot_product_attention: attention}
    return run_rank(case.config, rank, RANKS, case.micro_batches, case.row, kernels)


@lru_cache
def _measured(name: str, rank: int) -> Measured:
    return measure(CASES[name], rank)


def _is_accurate(case: Case, trace: Trace, measured: Measured) -> bool:
    """Whether bytes agree within 1 % at the end of every micro-batch's forward pass.

    A pipeline's schedule holds up to three tensors between stages, which autograd does not.
    """
    parallel, traced = case.config.parallel, kept_for_backward(trace)
    shared = parallel.context * (parallel.tensor if parallel.sequence else 1)
    between = LENGTH // shared * case.config.model.hidden_size * 4
    allowed = range(4 if parallel.pipeline > 1 else 1)
    assert len(traced) == len(measured.kept) == case.micro_batches
    return all(
        any(abs(ours - held * between - theirs) <= TOLERANCE * theirs for held in allowed)
        for ours, theirs in zip(traced, measured.kept, strict=True)
    )


@pytest.mark.parametrize(("name", "rank"), RUNS)
def test_memory_and_traffic_are_those_of_the_real_program(name: str, rank: int) -> None:
    case, measured = CASES[name], _measured(name, rank)
    trace = _trace(case, rank)
    assert _is_accurate(case, trace, measured)
    calls: Counter[tuple[str, int]] = Counter()
    sizes: Counter[tuple[str, int]] = Counter()
    for each in traffic(trace.events):
        calls[each.name, each.ranks] += each.calls
        sizes[each.name, each.ranks] += each.size
    expected_calls: Counter[tuple[str, int]] = Counter()
    expected_sizes: Counter[tuple[str, int]] = Counter()
    for (operator, ranks), count in measured.calls.items():
        expected_calls[OPERATORS[operator], ranks] += count
        expected_sizes[OPERATORS[operator], ranks] += measured.sizes[operator, ranks]
    several = {key for key in calls | expected_calls if key[1] > 1}
    assert several
    for key in several:  # groups of one rank are skipped on the CPU, and free everywhere
        assert (calls[key], sizes[key]) == (expected_calls[key], expected_sizes[key]), key


@pytest.mark.parametrize("name", ["TP2+SP CP2", "TP4 qwen2", "PP4 qwen3"])
def test_one_more_copy_a_layer_is_noticed(name: str) -> None:
    case = CASES[name]
    assert not _is_accurate(case, _trace(case, 0, _attention_with_a_copy), _measured(name, 0))
