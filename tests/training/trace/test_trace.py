"""What a trace says of operations, phases and kinds, and the text that shows it."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megatron_in2.architectures.registry import parameter_count
from megatron_in2.commands.parser import CommandParser, config_of
from megatron_in2.commands.train import main
from megatron_in2.errors import InputError
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.training.arithmetic.flops import head_flops_per_token, loss_flops, row_flops
from megatron_in2.training.arithmetic.gpu_types import GPU_TYPES, read_gpu
from megatron_in2.training.arithmetic.memory import memory_per_rank
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.step.fullest_row import fullest_row
from megatron_in2.training.trace.allowance import COMMUNICATOR, CONTEXT, GIB, allowance
from megatron_in2.training.trace.events import Operation, Trace
from megatron_in2.training.trace.layout import needed_gib, stage_ranks
from megatron_in2.training.trace.program import run_rank
from megatron_in2.training.trace.summary import (
    RECOMPUTED,
    flops_by_operation,
    holders,
    kept_for_backward,
    peaks,
)
from tests.conftest import ROOT
from tests.training.trace.cases import LENGTH, RANKS, SIZES, run

HALF = {"dtype": "bfloat16"}  # as on a GPU: flash attention


def _traced(config, rank: int = 0, samples: int = 1, micro_batches: int = 1) -> Trace:
    row = fullest_row(LENGTH, 8, samples, config.parallel.sample_multiple)
    return run_rank(config, rank, RANKS, micro_batches, row)


@pytest.mark.parametrize("family", ["mistral", "llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("samples", [1, 4])
def test_flops_of_all_ranks_are_those_of_the_formula(family: str, samples: int) -> None:
    config = run(ParallelConfig(2, 2, 1, True), family, logits="all", **HALF)
    stages = stage_ranks(config.parallel, RANKS).values()
    traced = 2 * sum(  # every stage has two tensor-parallel ranks
        sum(flops_by_operation(_traced(config, rank, samples).events).values()) for rank in stages
    )
    squares = np.array([samples * (LENGTH // samples) ** 2])
    expected = row_flops(config.model, LENGTH, squares)[0]
    expected += LENGTH * head_flops_per_token(config.model)
    # The formula counts 6 FLOPs for each element of a norm, which no matrix product has.
    norms = 6 * LENGTH * _vector_parameters(config)
    assert traced == pytest.approx(expected - norms, rel=1e-3)


def _vector_parameters(config) -> int:
    """Parameters of norms and biases."""
    model = config.model
    layers, heads = model.num_layers, model.num_attention_heads
    vectors = (2 * layers + 1) * model.hidden_size
    if model.architecture == "qwen2":
        vectors += layers * (heads + 2 * model.num_query_groups) * model.head_dim
    if model.architecture == "qwen3":
        vectors += layers * 2 * model.head_dim
    return vectors


def _film7b(*options: str) -> TrainConfig:
    arguments = ["--config", str(ROOT / "configs" / "film7b.yaml"), *options]
    return config_of(CommandParser(None, TrainConfig).read(arguments), TrainConfig)


def _film7b_trace(config: TrainConfig) -> Trace:
    return run_rank(config, 0, 128, 1, fullest_row(config.data.seq_length, 8))


def test_film7b_of_128_ranks_is_traced_at_its_size() -> None:
    """The layout that users get: it fits 80 GB, and its FLOPs are the formula's within 0.1 %."""
    config = _film7b()
    length, parallel = config.data.seq_length, config.parallel
    trace = _film7b_trace(config)
    flops = sum(flops_by_operation(trace.events).values())
    expected = loss_flops(config.model, length, np.array([length**2]), 8)
    assert flops == pytest.approx(expected / parallel.model_ranks, rel=1e-3)
    fullest = max(peaks(trace), key=lambda peak: peak.total)
    weights = parameter_count(config.model) / parallel.tensor * 2
    shards = parallel.context * parallel.data_ranks(128)
    assert fullest.kinds["weights"] == pytest.approx(weights, rel=1e-3)
    assert fullest.kinds["gradients"] == pytest.approx(2 * weights, rel=1e-3)
    assert fullest.kinds["optimizer"] == pytest.approx(6 * weights / shards, rel=2e-3)
    assert needed_gib(trace) < 70 < read_gpu(GPU_TYPES, "h100").memory_gib


@pytest.mark.slow
def test_film7b_on_four_tensor_parallel_ranks_needs_little() -> None:
    config = _film7b("--parallel.tensor=4", "--parallel.context=1")
    assert max(peak.total for peak in peaks(_film7b_trace(config))) < 48.5 * GIB


def test_recomputation_repeats_the_forward_pass() -> None:
    parallel = ParallelConfig(2, sequence=True)
    flops = {
        mode: flops_by_operation(_traced(run(parallel, recompute=mode, **HALF)).events)
        for mode in ("none", "full", "selective")
    }
    assert not any(name.endswith(RECOMPUTED) for name in flops["none"])
    attention = "scaled_dot_product_attention"
    assert flops["full"][attention + RECOMPUTED] == pytest.approx(flops["none"][attention])
    assert flops["full"]["mm"] == pytest.approx(flops["none"]["mm"])
    assert flops["full"]["mm" + RECOMPUTED] > 0.3 * flops["none"]["mm"]
    assert flops["selective"] == flops["none"]  # it recomputes no matrix product


def test_selective_recomputation_repeats_norms_and_products() -> None:
    config = run(ParallelConfig(2, sequence=True), recompute="selective", **HALF)
    kernels = Counter(
        each.name
        for each in _traced(config).events
        if isinstance(each, Operation) and each.is_recomputed and each.moved
    )
    layers = SIZES["num_layers"] - 1  # the last one runs at answers and recomputes nothing
    assert kernels["rms_norm"] == 2 * layers
    assert kernels["silu"] == layers
    assert kernels["mul"] == layers
    assert kernels["copy_"] == 3 * layers  # back into the outputs that were emptied


def test_recomputation_keeps_less() -> None:
    parallel = ParallelConfig(2, sequence=True)
    full, selective, none = (
        kept_for_backward(_traced(run(parallel, recompute=mode, **HALF)))[0]
        for mode in ("full", "selective", "none")
    )
    assert full < 0.3 * selective
    assert selective < 0.85 * none


def test_an_offloaded_optimizer_is_the_hosts() -> None:
    config = run(ParallelConfig(2, sequence=True), **HALF)
    offloaded = replace(config, optimizer=replace(config.optimizer, cpu_offload=True))
    here, there = (peaks(_traced(each)) for each in (config, offloaded))
    for before, after in zip(here[:2], there[:2], strict=True):  # the update differs by itself
        assert "host" not in before.kinds
        assert "optimizer" not in after.kinds
        assert after.total == before.total - before.kinds["optimizer"]
    host = there[-1].kinds["host"]
    assert host == pytest.approx(memory_per_rank(offloaded, RANKS).host, rel=0.01)


def test_a_whole_row_of_short_samples_is_one_kernel() -> None:
    config = run(ParallelConfig(), **HALF)
    kernels = Counter(
        each.name for each in _traced(config, samples=16).events if isinstance(each, Operation)
    )
    assert kernels["_varlen_attn"] == SIZES["num_layers"] - 1  # the last layer attends at answers


def test_the_first_stage_keeps_most_micro_batches() -> None:
    config = run(ParallelConfig(1, 4))
    kept = {
        name: max(kept_for_backward(_traced(config, rank, micro_batches=4)))
        for name, rank in stage_ranks(config.parallel, RANKS).items()
    }
    assert kept["first"] > kept["middle"] > kept["last"]
    assert kept["first"] == pytest.approx(4 / 3 * kept["middle"], rel=0.1)


def test_holders_are_all_that_is_held() -> None:
    trace = _traced(run(ParallelConfig(2, sequence=True)))
    for peak in peaks(trace):
        held = holders(trace, peak.moment)
        assert sum(each.size for each in held) == sum(peak.kinds.values())
        assert [each.size for each in held] == sorted((each.size for each in held), reverse=True)


def test_the_allowance_counts_groups() -> None:
    alone = _traced(run(ParallelConfig(1, 4)))
    parallel = _traced(run(ParallelConfig(2, sequence=True)))
    assert allowance(alone, peaks(alone)[0]).communicators == COMMUNICATOR  # one of all four ranks
    unseen = allowance(parallel, peaks(parallel)[0])
    assert unseen.communicators == 3 * COMMUNICATOR  # tensor, data, world
    assert unseen.total > CONTEXT + 3 * COMMUNICATOR


def test_the_command_prints_every_part(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sizes = [f"--model.{name}={value}" for name, value in SIZES.items()]
    options = ["--config", str(ROOT / "configs" / "tiny.yaml"), *sizes, "--dry-run"]
    options += [f"--data.seq_length={LENGTH}", "--parallel.pipeline=4", "--runtime.dtype=bfloat16"]
    assert main([*options, "--world-size=4", "--trace", "--trace-samples=2"]) == 0
    text = capsys.readouterr().out
    for stage in ("rank 0 of 4, first", "rank 1 of 4, middle", "rank 3 of 4, last"):
        assert stage in text
    assert text.count("h100            fits in") == 3
    assert "2 samples, trained on the last 512" in text
    for word in (
        "linear_fc1",
        "send             pipeline",
        "_varlen_attn",
        "needed  ",
        "tokens/s a GPU",
    ):
        assert word in text, word


def test_what_cannot_be_traced_is_refused() -> None:
    with pytest.raises(InputError, match="--trace needs --dry-run"):
        main(["--config", str(ROOT / "configs" / "tiny.yaml"), "--trace"])
    with pytest.raises(InputError, match="cannot be traced"):
        _traced(run(ParallelConfig(), backend="transformer_engine"))
    with pytest.raises(InputError, match="cannot have 600 samples"):
        fullest_row(LENGTH, 8, samples=600)
