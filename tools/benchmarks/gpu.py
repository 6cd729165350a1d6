#!/usr/bin/env python3
r"""Step time, tokens a second, MFU and peak memory of the trainer on one GPU.

Example:
    python tools/benchmarks/gpu.py

Eight layers of Mistral-7B's shape, rows of 32,768 tokens, bfloat16, logits at answers only, the
real loop with its optimizer step on random rows. Cases: one sample a row and several, without
recompute and (separately) with full recompute, each attention kernel that torch has, and
Transformer Engine where it is installed. Each case runs in its own process; one that cannot run
prints the reason, and the others continue.

MFU is of the card's dense bfloat16 peak in gpus.yaml, by two conventions: causal (what the
loss needs: each sample's own causal attention, LM head and last layer's outputs at answers) and
dense (Megatron-LM's: every query sees the whole row, a logit at every token). In the last layer,
Transformer Engine's attention runs everywhere; causal MFU does not count that work. The target is
45 % causal, without recompute, for one sample a row.

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
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.data.packed.blend import BlendPart
from megatron_in2.data.packed.random_rows import write_random_rows
from megatron_in2.errors import InputError
from megatron_in2.parallel.rank import SINGLE_RANK
from megatron_in2.parallel.world import open_world
from megatron_in2.tokenizers.load import MISTRAL_V1, load_tokenizer
from megatron_in2.training.arithmetic.flops import dense_row_flops
from megatron_in2.training.arithmetic.gpu_types import GPU_TYPES, peak_of_card, read_gpu
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
from megatron_in2.training.step.train_step import train_step

RECOMPUTES: tuple[Recompute, ...] = ("none", "full")
KERNELS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
TARGET = 0.45
WARM_STEPS = 2
GIB = 2**30


@dataclass(frozen=True)
class Case:
    """One way to train.

    Args:
        samples: in each row, all of the same length.
        recompute: none | selective | full.
        backend: torch | transformer_engine.
        kernel: of attention: flash | cudnn, or torch's own choice.
    """

    samples: int
    recompute: Recompute = "none"
    backend: Backend = "torch"
    kernel: str = "torch's choice"


@dataclass(frozen=True)
class Measured:
    """Results of a case: median seconds of a step, its FLOPs by both conventions, peak memory."""

    seconds: float
    tokens: int
    causal_flops: float
    dense_flops: float
    peak_bytes: int
    loss: float


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden-size", type=int, default=4096)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--seq-length", type=int, default=32768, help="tokens a row")
    parser.add_argument("--packed-samples", type=int, default=16, help="of the rows with several")
    parser.add_argument("--answer-share", type=float, default=0.02, help="of the tokens")
    parser.add_argument("--rows", type=int, default=2, help="rows of a step, one at a time")
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed")
    parser.add_argument("--gpu-type", help="in gpus.yaml; default: by the card's name")
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
    _report(_cases(options.packed_samples, on_gpu), options, peak)


def _peak(gpu_type: str | None) -> float | None:
    """Return the card's peak in FLOP/s, by type or by name; None if it is unknown."""
    if gpu_type is not None:
        return read_gpu(GPU_TYPES, gpu_type).bf16_tflops * 1e12
    found = torch.cuda.get_device_name()
    peak = peak_of_card(found)
    unknown = "not in gpus.yaml, so no MFU; name a type by --gpu-type"
    print(f"{found}: {unknown if peak is None else f'{peak / 1e12:.0f} TFLOP/s'}")
    return peak


def _cases(packed: int, on_gpu: bool) -> list[Case]:
    cases = [Case(samples, recompute) for recompute in RECOMPUTES for samples in (1, packed)]
    if on_gpu:
        cases += [Case(samples, kernel=kernel) for kernel in KERNELS for samples in (1, packed)]
        if importlib.util.find_spec("transformer_engine") is None:
            print("Transformer Engine is not installed: its cases are left out")
        else:
            cases += [
                Case(samples, recompute, "transformer_engine", "its choice")
                for recompute in RECOMPUTES
                for samples in (1, packed)
            ]
    return cases


def _report(cases: list[Case], options: Any, peak: float | None) -> None:
    print(
        f"{options.layers} layers x {options.hidden_size}, rows of {options.seq_length:,} tokens, "
        f"{options.rows} a step, bfloat16, median of {options.steps} steps"
    )
    print(
        "| backend | attention | samples a row | recompute | s a step | tokens/s | MFU causal | "
        "x target | MFU dense | peak GiB |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for case in cases:
        row = f"| {case.backend} | {case.kernel} | {case.samples} | {case.recompute} |"
        print(f"{row} {_figures(case, options.device, peak)} |", flush=True)


def _figures(case: Case, device: str, peak: float | None) -> str:
    """Measure a case in its own process and return its table cells."""
    environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})}
    done = subprocess.run(
        [sys.executable, *sys.argv, "--case", json.dumps(asdict(case))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return f"did not run: {lines[-1]}"
    measured = Measured(**json.loads(done.stdout.strip().splitlines()[-1]))
    causal = dense = times = "-"
    if peak is not None:
        share = measured.causal_flops / measured.seconds / peak
        causal = f"{share:.1%}"
        times = f"{share / TARGET:.2f}"
        dense = f"{measured.dense_flops / measured.seconds / peak:.1%}"
    return (
        f"{measured.seconds:.3f} | {measured.tokens / measured.seconds:,.0f} | {causal} | "
        f"{times} | {dense} | {measured.peak_bytes / GIB:.1f}"
    )


def _measure(case: Case, options: Any) -> Measured:
    heads = options.hidden_size // options.head_dim
    config = TrainConfig(
        model=ModelConfig(
            num_layers=options.layers,
            hidden_size=options.hidden_size,
            num_attention_heads=heads,
            num_query_groups=max(heads // 4, 1),
            head_dim=options.head_dim,
            ffn_hidden_size=options.hidden_size * 7 // 2,
            max_position_embeddings=options.seq_length,
        ),
        data=DataConfig(seq_length=options.seq_length),
        schedule=ScheduleConfig(global_batch_rows=options.rows, steps=WARM_STEPS + options.steps),
        runtime=RuntimeConfig(backend=case.backend, recompute=case.recompute),
    )
    config.validate(world_size=1)
    if options.seq_length % case.samples:
        raise InputError(f"--seq-length {options.seq_length} cannot hold {case.samples} samples")
    with tempfile.TemporaryDirectory() as folder, _kernel(case.kernel):
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
        return _train(replace(config, data=data), inputs)


@contextlib.contextmanager
def _kernel(name: str) -> Iterator[None]:
    if name in KERNELS:
        with sdpa_kernel(KERNELS[name]):
            yield
    else:
        yield


def _train(config: TrainConfig, inputs: RunInputs) -> Measured:
    with open_world(config.parallel, SINGLE_RANK, config.runtime.seed) as world:
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
            peak_bytes=_peak_bytes(world.device),
            loss=metrics.loss,
        )


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))


if __name__ == "__main__":
    run_command(main)
