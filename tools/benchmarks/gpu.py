#!/usr/bin/env python3
r"""Tokens a second, MFU and peak memory of the trainer on one GPU at 32K, beside published figures.

Example:
    python tools/benchmarks/gpu.py

As many of Mistral-7B's layers as the card holds, at most eight, rows of 32,768 tokens, bfloat16,
logits at answers only, the real loop with its optimizer step on random rows. Cases: without
recompute and with full recompute, each attention kernel that torch has, and Transformer Engine,
also in FP8, where it is installed; each with one sample a row and with several, side by side. Each
case runs in its own process; one that cannot run prints the reason, and the others continue. No
case begins after --minutes, so that the command ends within ten.

MFU is of the card's dense bfloat16 peak in gpus.yaml, by two conventions: causal (what the
loss needs: each sample's own causal attention, LM head and last layer's outputs at answers) and
dense (Megatron-LM's: every row is one causal sample, a logit at every token). In the last layer,
Transformer Engine's attention runs everywhere; causal MFU does not count that work. The target is
50 % causal, without recompute, for one sample a row. "x32" is the rate of all 32 layers, by FLOPs.

Without a GPU it prints one line and exits with 0. --device cpu runs the same code at sizes that a
CPU can handle:

    python tools/benchmarks/gpu.py --device cpu --layers 2 --hidden-size 64 --head-dim 16 \
        --seq-length 256
"""

import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.data.packed.blend import BlendPart
from megatron_in2.data.packed.random_rows import write_random_rows
from megatron_in2.errors import InputError
from megatron_in2.model.attention_kernels import attention_kernels_of
from megatron_in2.parallel.rank import SINGLE_RANK
from megatron_in2.parallel.world import open_world
from megatron_in2.tokenizers.load import MISTRAL_V1, load_tokenizer
from megatron_in2.training.arithmetic.flops import dense_row_flops, loss_flops
from megatron_in2.training.arithmetic.gpu_types import GPU_TYPES, peak_of_card, read_gpu
from megatron_in2.training.arithmetic.memory import memory_per_rank
from megatron_in2.training.build import build_training_state
from megatron_in2.training.checks.preflight import RunInputs
from megatron_in2.training.config import (
    Backend,
    DataConfig,
    Recompute,
    RuntimeConfig,
    ScheduleConfig,
    TrainConfig,
)
from megatron_in2.training.step.metrics import StepMetrics
from megatron_in2.training.step.train_step import train_step

RECOMPUTES: tuple[Recompute, ...] = ("none", "full")
KERNELS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
CARDS_CHOICE = "the card's choice"
TARGET = 0.5
WARM_STEPS = 2
MOST_LAYERS, WHOLE_LAYERS = 8, 32
MINUTES = 8.0  # the last case to begin may take two
USABLE = 0.9  # of the card's memory
GIB = 2**30
PUBLISHED = """
Published, for a GPU at 32K (none of them packed rows, or answers only):
| trainer | model | precision | tokens/s | GiB | TFLOP/s |
|---|---|---|---|---|---|
| torchtitan | Llama-3.1-8B | FP8 | 3,890 | 83.9 | - |
| NeMo | Llama 3 | FP8 | - | - | 610 |"""


@dataclass(frozen=True)
class Case:
    """One way to train.

    Args:
        samples: in each row, all of the same length.
        recompute: none | selective | full.
        backend: torch | transformer_engine.
        kernel: of attention: flash | cudnn, or what the trainer takes on this card.
        fp8: format of the layers' matrix products, or empty.
    """

    samples: int
    recompute: Recompute = "none"
    backend: Backend = "torch"
    kernel: str = CARDS_CHOICE
    fp8: Literal["", "hybrid"] = ""


@dataclass(frozen=True)
class Measured:
    """Results of a case.

    Args:
        seconds: median of a step.
        tokens: of a step.
        causal_flops: of a step, as its loss needs them.
        dense_flops: the same step as Megatron-LM counts it.
        whole_flops: as ``causal_flops``, of a model with all layers.
        peak_bytes: of torch's allocator on a GPU, resident on a CPU.
        loss: of the last step.
    """

    seconds: float
    tokens: int
    causal_flops: float
    dense_flops: float
    whole_flops: float
    peak_bytes: int
    loss: float


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--layers", type=int, help="default: what the card holds, at most 8")
    parser.add_argument("--hidden-size", type=int, default=4096)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--seq-length", type=int, default=32768, help="tokens a row")
    parser.add_argument("--packed-samples", type=int, default=16, help="of the rows with several")
    parser.add_argument("--answer-share", type=float, default=0.02, help="of the tokens")
    parser.add_argument("--rows", type=int, default=2, help="rows of a step, one at a time")
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed")
    parser.add_argument("--gpu-type", help="in gpus.yaml; default: by the card's name")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="after which no case begins")
    parser.add_argument("--case", help="measure this one case (JSON) and print its figures")
    options = parser.read()
    if options.case:
        measured = _measure(Case(**json.loads(options.case)), options)
        print(json.dumps(asdict(measured)))
        return
    if options.device == "auto" and not torch.cuda.is_available():
        print("no GPU is here: nothing was measured (--device cpu tries the same code on a CPU)")
        return
    on_gpu = options.device == "auto"
    peak = _peak(options.gpu_type) if on_gpu else None
    if options.layers is None:
        options.layers = _layers_that_fit(options) if on_gpu else 1
    _report(_cases(on_gpu), options, peak)


def _peak(gpu_type: str | None) -> float | None:
    """Return the card's peak in FLOP/s, by type or by name; None if it is unknown."""
    if gpu_type is not None:
        return read_gpu(GPU_TYPES, gpu_type).bf16_tflops * 1e12
    found = torch.cuda.get_device_name()
    peak = peak_of_card(found)
    unknown = "not in gpus.yaml, so no MFU; name a type by --gpu-type"
    print(f"{found}: {unknown if peak is None else f'{peak / 1e12:.0f} TFLOP/s'}")
    return peak


def _layers_that_fit(options: Any) -> int:
    """Return how many layers the card holds without recompute, by the formula of in2 plan."""
    usable = USABLE * torch.cuda.get_device_properties(0).total_memory
    for layers in range(MOST_LAYERS, 1, -1):
        config = _config(Case(samples=1), options, layers)
        if memory_per_rank(config, world_size=1).total <= usable:
            return layers
    return 1


def _cases(on_gpu: bool) -> list[Case]:
    """Return the ways to train, each with one sample a row."""
    cases = [Case(1, recompute) for recompute in RECOMPUTES]
    if on_gpu:
        cases += [Case(1, kernel=kernel) for kernel in KERNELS]
        if importlib.util.find_spec("transformer_engine") is None:
            print("Transformer Engine is not installed: its cases are left out")
        else:
            engine = Case(1, "none", "transformer_engine", "its choice")
            cases += [replace(engine, recompute=recompute) for recompute in RECOMPUTES]
            cases.append(replace(engine, fp8="hybrid"))
    return cases


def _report(cases: list[Case], options: Any, peak: float | None) -> None:
    print(
        f"{options.layers} layers x {options.hidden_size}, rows of {options.seq_length:,} tokens, "
        f"{options.rows} a step, median of {options.steps} steps"
    )
    figures = "s a step | tokens/s | x32 | MFU causal | MFU dense | peak GiB"
    print(
        f"| backend | precision | attention | recompute | 1 sample a row: {figures} | "
        f"{options.packed_samples} samples: {figures} |"
    )
    print("|" + "---|" * 16)
    started, left_out = time.monotonic(), 0
    for case in cases:
        if time.monotonic() - started > 60 * options.minutes:
            left_out += 1
            continue
        both = [
            _figures(replace(case, samples=samples), options, peak)
            for samples in (1, options.packed_samples)
        ]
        precision = "FP8" if case.fp8 else "bfloat16"
        row = f"| {case.backend} | {precision} | {case.kernel} | {case.recompute} |"
        print(f"{row} {' | '.join(both)} |", flush=True)
    if left_out:
        print(f"{left_out} cases were not begun: --minutes {options.minutes:g} were over")
    print(PUBLISHED)


def _figures(case: Case, options: Any, peak: float | None) -> str:
    """Measure a case in its own process and return its table cells."""
    is_cpu = options.device == "cpu"
    environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": ""} if is_cpu else {})}
    layers = ["--layers", str(options.layers)]
    done = subprocess.run(
        [sys.executable, *sys.argv, *layers, "--case", json.dumps(asdict(case))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return f"did not run: {lines[-1]} | | | | | "
    measured = Measured(**json.loads(done.stdout.strip().splitlines()[-1]))
    causal = dense = "-"
    if peak is not None:
        share = measured.causal_flops / measured.seconds / peak
        causal = f"{share:.1%} ({share / TARGET:.2f} x {TARGET:.0%})"
        dense = f"{measured.dense_flops / measured.seconds / peak:.1%}"
    rate = measured.tokens / measured.seconds
    whole = rate * measured.causal_flops / measured.whole_flops
    return (
        f"{measured.seconds:.3f} | {rate:,.0f} | {whole:,.0f} | {causal} | {dense} | "
        f"{measured.peak_bytes / GIB:.1f}"
    )


def _config(case: Case, options: Any, layers: int) -> TrainConfig:
    heads = options.hidden_size // options.head_dim
    return TrainConfig(
        model=ModelConfig(
            num_layers=layers,
            hidden_size=options.hidden_size,
            num_attention_heads=heads,
            num_query_groups=max(heads // 4, 1),
            head_dim=options.head_dim,
            ffn_hidden_size=options.hidden_size * 7 // 2,
            max_position_embeddings=options.seq_length,
        ),
        data=DataConfig(seq_length=options.seq_length),
        schedule=ScheduleConfig(global_batch_rows=options.rows, steps=WARM_STEPS + options.steps),
        runtime=RuntimeConfig(backend=case.backend, recompute=case.recompute, fp8=case.fp8),
    )


def _measure(case: Case, options: Any) -> Measured:
    config = _config(case, options, options.layers or 1)
    config.validate(world_size=1)
    if options.seq_length % case.samples:
        raise InputError(f"--seq-length {options.seq_length} cannot hold {case.samples} samples")
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "rows"
        lengths = [options.seq_length // case.samples] * case.samples
        tokenizer = load_tokenizer(MISTRAL_V1)
        rows = config.schedule.global_batch_rows * config.schedule.steps
        manifest = write_random_rows(prefix, tokenizer, rows, lengths, options.answer_share)
        inputs = RunInputs(
            tokenizer=tokenizer,
            datasets=(BlendPart(1.0, prefix, manifest),),
            rows=rows,
            learnt_tokens=manifest.learnt_tokens,
            dataset_seals={str(prefix): manifest.seal},
            total_steps=config.schedule.steps,
            resume_from=None,
            init_from=None,
        )
        data = replace(config.data, train=str(prefix))
        return _train(replace(config, data=data), inputs, case.kernel)


@contextlib.contextmanager
def _kernel(name: str, device: torch.device) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if name in KERNELS:
            stack.enter_context(sdpa_kernel(KERNELS[name]))
        else:
            stack.enter_context(attention_kernels_of(device))
        yield


def _train(config: TrainConfig, inputs: RunInputs, kernel: str) -> Measured:
    with (
        open_world(config.parallel, SINGLE_RANK, config.runtime.seed) as world,
        _kernel(kernel, world.device),
    ):
        state = build_training_state(config, inputs, world)
        seconds = []
        for _ in range(inputs.total_steps):
            torch.cuda.synchronize()  # does nothing on a CPU
            started = time.perf_counter()
            metrics = train_step(state)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        dense = config.schedule.global_batch_rows * dense_row_flops(
            config.model, config.data.seq_length
        )
        return Measured(
            seconds=statistics.median(seconds[WARM_STEPS:]),
            tokens=metrics.tokens,
            causal_flops=metrics.flops,
            dense_flops=dense,
            whole_flops=_whole_flops(config, metrics),
            peak_bytes=_peak_bytes(world.device),
            loss=metrics.loss,
        )


def _whole_flops(config: TrainConfig, metrics: StepMetrics) -> float:
    """Return the causal FLOPs of a step of the model with all its layers; all rows are alike."""
    rows, length = config.schedule.global_batch_rows, config.data.seq_length
    samples = metrics.samples // rows
    squares = np.full(rows, samples * (length // samples) ** 2)
    whole = replace(config.model, num_layers=WHOLE_LAYERS)
    return loss_flops(whole, length, squares, metrics.answer_tokens)


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))


if __name__ == "__main__":
    run_command(main)
