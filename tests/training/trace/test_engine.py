"""What Transformer Engine keeps, by its source, against the trace of the modules in its place.

The table below is written from Transformer Engine 2.11: the tensors that each autograd function
gives to ``save_for_backward``, and which of them share memory with another's.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch.autograd.function import FunctionCtx

from megatron_in2.errors import InputError
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.step.fullest_row import fullest_row
from megatron_in2.training.trace.events import Trace
from megatron_in2.training.trace.program import run_rank
from megatron_in2.training.trace.summary import flops_by_operation, kept_for_backward, traffic
from tests.training.trace.cases import LENGTH, RANKS, SIZES, run

HALF, SINGLE = 2, 4  # bytes of an element
LAYOUTS = {
    "DP4": ParallelConfig(),
    "TP2+SP": ParallelConfig(2, sequence=True),
    "TP2": ParallelConfig(2),
    "CP2": ParallelConfig(1, 1, 2),
    "TP2+SP CP2": ParallelConfig(2, 1, 2, True),
    "CP4": ParallelConfig(1, 1, 4),
}

FAMILIES = ("mistral", "qwen2", "qwen3")
TENSORS = ("rows", "normed", "query", "key", "value", "output", "input")
QUICK = [("DP4", "qwen3"), ("TP2", "qwen2"), ("TP2+SP CP2", "mistral")]


def some(quick: list[Any], every: Iterable[Any]) -> list[Any]:
    """Return all cases; those that are not quick are slow."""
    return [pytest.param(*case, marks=() if case in quick else pytest.mark.slow) for case in every]


def _run(parallel: ParallelConfig, family: str = "mistral", layers: int = 4) -> TrainConfig:
    config = run(parallel, family, dtype="bfloat16", backend="transformer_engine")
    return replace(config, model=replace(config.model, num_layers=layers))


def _trace(config: TrainConfig, rank: int = 0, samples: int = 1) -> Trace:
    row = fullest_row(LENGTH, 8, samples, config.parallel.sample_multiple)
    return run_rank(config, rank, RANKS, 1, row)


def _kept_by_a_layer(parallel: ParallelConfig, family: str = "mistral", rank: int = 0) -> int:
    """Return the bytes that one more layer keeps."""
    more, fewer = (
        kept_for_backward(_trace(_run(parallel, family, layers), rank))[0] for layers in (3, 2)
    )
    return more - fewer


def _by_source(parallel: ParallelConfig, family: str) -> int:
    """Return the bytes of a layer by Transformer Engine's source."""
    tokens = LENGTH // parallel.context
    own = tokens // (parallel.tensor if parallel.sequence else 1)
    heads = SIZES["num_attention_heads"] // parallel.tensor
    groups = SIZES["num_query_groups"] // parallel.tensor
    width, hidden = SIZES["head_dim"], SIZES["hidden_size"]
    feed_forward = SIZES["ffn_hidden_size"] // parallel.tensor
    layer_norm_linear = own * (2 * hidden * HALF + SINGLE)  # input, norm's output; scale
    attention = tokens * (2 * heads + 2 * groups) * width * HALF  # queries, output; keys, values
    attention += tokens * heads * SINGLE  # log-sum-exp
    # The output is the input of linear_proj. SwiGLU keeps its input, and linear_fc2 its output.
    kept = 2 * layer_norm_linear + attention + tokens * 3 * feed_forward * HALF
    if family == "qwen3":  # each norm keeps a contiguous input and the rows' scales
        kept += tokens * (heads + groups) * (width * HALF + SINGLE)
    return kept


@pytest.mark.parametrize(("layout", "family"), some(QUICK, product(LAYOUTS, FAMILIES)))
def test_a_layer_keeps_what_the_source_says(layout: str, family: str) -> None:
    parallel = LAYOUTS[layout]
    assert _kept_by_a_layer(parallel, family) == _by_source(parallel, family)


@pytest.mark.parametrize(
    ("layout", "left_out"), some([("DP4", "normed")], product(["DP4", "CP2"], TENSORS))
)
def test_a_tensor_that_is_left_out_is_noticed(
    layout: str, left_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: one tensor of one kind of function is not kept."""
    places = {
        "_LayerNormLinear": {"rows": 0, "normed": 3},
        "_FusedAttention": {"query": 0, "key": 1, "value": 2, "output": 3},
        "_RingAttention": {"query": 0, "key": 1, "value": 1, "output": 2},
        "SwiGLUFunction": {"input": 0},
    }
    save = FunctionCtx.save_for_backward

    def save_others(ctx: Any, *tensors: torch.Tensor) -> None:
        place = places.get(type(ctx).__name__.removesuffix("Backward"), {}).get(left_out)
        save(ctx, *(_shape_of(x) if i == place else x for i, x in enumerate(tensors)))

    monkeypatch.setattr(FunctionCtx, "save_for_backward", save_others)
    found, expected = _kept_by_a_layer(LAYOUTS[layout]), _by_source(LAYOUTS[layout], "mistral")
    if left_out == "output":  # linear_proj keeps it, too
        assert found == expected + HALF
    else:
        assert found < expected


def _shape_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the same shape and one element's memory."""
    return tensor.new_empty(1).expand(tensor.shape)


@pytest.mark.parametrize(("layout", "samples"), some([("TP2+SP CP2", 4)], product(LAYOUTS, [1, 4])))
def test_it_computes_what_the_torch_backend_computes(layout: str, samples: int) -> None:
    """The same matrices and pairs, but for attention in the last layer, which runs everywhere."""
    config = _run(LAYOUTS[layout], layers=2)
    config = replace(config, runtime=replace(config.runtime, logits="all"))
    torch_config = replace(config, runtime=replace(config.runtime, backend="torch"))
    ours, theirs = (
        sum(flops_by_operation(_trace(each, RANKS - 1, samples).events).values())
        for each in (config, torch_config)
    )
    assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("rank", some([(1,)], [(rank,) for rank in range(RANKS)]))
def test_keys_and_values_travel_in_a_ring(rank: int) -> None:
    """Forward each rank's keys and values, backward also their gradients: to every other rank."""
    layers = 2
    events = _trace(_run(LAYOUTS["CP4"], layers=layers), rank).events
    sent = {each.name: each for each in traffic(events) if each.group == "context"}
    both = 2 * LENGTH // 4 * SIZES["num_query_groups"] * SIZES["head_dim"] * HALF
    # Keys and values CP - 1 times forward and backward, their gradients as often.
    assert sent["send"].size == layers * both * (3 + 3 + 3)
    assert sent["receive"].size == sent["send"].size
    assert sent["send"].calls == layers * (3 + 4)


@pytest.mark.slow
def test_recomputation_keeps_less() -> None:
    kept = {}
    for mode in ("none", "selective", "full"):
        config = _run(LAYOUTS["TP2+SP"])
        config = replace(config, runtime=replace(config.runtime, recompute=mode))
        kept[mode] = kept_for_backward(_trace(config))[0]
    assert kept["full"] < 0.5 * kept["selective"]
    assert kept["selective"] < 0.8 * kept["none"]


def test_float32_and_fp8_are_refused() -> None:
    single = run(ParallelConfig(), backend="transformer_engine")
    with pytest.raises(InputError, match=r"runtime\.backend=transformer_engine .* float32"):
        _trace(single)
    with pytest.raises(InputError, match=r"runtime\.fp8 cannot be traced"):
        _trace(replace(single, runtime=replace(single.runtime, fp8="hybrid")))
