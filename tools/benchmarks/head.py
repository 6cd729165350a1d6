#!/usr/bin/env python3
"""Savings of answer-only logits at Mistral-7B's LM head, computed and measured.

Example:
    python tools/benchmarks/head.py

Computed: the head's share of a step's FLOPs in rows of 32,768 tokens with 1 and 16 samples, the
remaining FLOPs when the last layer also runs at answers only (torch backend), and the bytes of the
logits. Measured: the model's own head (hidden 4,096, 32,000 columns, loss and both gradients)
forward and backward on this CPU, at answers only and everywhere, each in its own process. Memory
is the increase of the largest resident set. The last columns scale both to a row of 32,768 tokens
in proportion to the positions, without the memory of the weights' gradient. This is accurate for
logits everywhere, where matrix products and passes over logits dominate. At answers only it
overestimates, because much of the rest (writing that gradient, library buffers) does not grow with
the row.
"""

import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.model.build import build_model
from megatron_in2.model.packed_row import packed_row
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.rank import SINGLE_RANK
from megatron_in2.parallel.world import open_world
from megatron_in2.training.arithmetic.flops import head_flops_per_token, loss_flops, row_flops
from megatron_in2.training.build import TORCH_DTYPES
from megatron_in2.training.config import Logits

ROW = 32768  # tokens
WARM = 1


@dataclass(frozen=True)
class Measured:
    """Median seconds of forward and backward, increase of memory, and the loss."""

    seconds: float
    peak_bytes: int
    weight_bytes: int
    loss: float


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--tokens", type=int, default=2048, help="positions")
    parser.add_argument("--hidden-size", type=int, default=4096)
    parser.add_argument("--answer-share", type=float, default=0.02, help="of the positions")
    parser.add_argument("--dtype", choices=tuple(TORCH_DTYPES), default="bfloat16")
    parser.add_argument("--repeats", type=int, default=3, help="that are timed")
    parser.add_argument(
        "--logits", choices=get_args(Logits), help="measure this one and print its figures"
    )
    options = parser.read()
    if options.logits:
        print(json.dumps(asdict(_measure(options))))
        return
    _report_arithmetic(options.answer_share)
    _report_measured(options, {logits: _in_process(logits) for logits in get_args(Logits)})


def _report_arithmetic(answer_share: float) -> None:
    model = ModelConfig()
    head = ROW * head_flops_per_token(model)
    logits = ROW * model.vocab_size
    print(f"Mistral-7B, a row of {ROW:,} tokens, trained on {answer_share:.0%}, computed")
    print("| | logits everywhere | at answers only |")
    print("|---|---|---|")
    for samples in (1, 16):
        squares = np.array([ROW**2 // samples])
        body = float(row_flops(model, ROW, squares)[0])
        shares = [share * head / (body + share * head) for share in (1.0, answer_share)]
        print(
            f"| head's share of FLOPs, {samples} sample(s) a row | {shares[0]:.2%} | "
            f"{shares[1]:.3%} |"
        )
        needed = loss_flops(model, ROW, squares, answer_share * ROW)
        print(
            f"| all FLOPs, last layer at answers only too, {samples} sample(s) a row | 100 % | "
            f"{needed / (body + head):.2%} |"
        )
    for name, width in (("bfloat16 logits", 2), ("float32 copy", 4), ("float32 gradient", 4)):
        print(f"| {name} | {_gb(logits * width)} | {_gb(logits * width * answer_share)} |")
    print(f"| together | {_gb(logits * 10)} | {_gb(logits * 10 * answer_share)} |")


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


def _in_process(logits: str) -> Measured:
    done = subprocess.run(
        [sys.executable, *sys.argv, "--logits", logits],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Measured(**json.loads(done.stdout.strip().splitlines()[-1]))


def _report_measured(options: Any, measured: dict[str, Measured]) -> None:
    answers, everywhere = measured["answers"], measured["all"]
    if abs(answers.loss / everywhere.loss - 1) > 1e-5:
        raise RuntimeError(f"the losses differ: {answers.loss} and {everywhere.loss}")
    print(
        f"\nmeasured: {options.tokens:,} positions x {options.hidden_size}, {options.dtype}, "
        f"{torch.get_num_threads()} threads, same loss ({answers.loss:.4f})"
    )
    print(f"| logits | s | x | peak GB | x | s at {ROW:,} | GB at {ROW:,} |")
    print("|---|---|---|---|---|---|---|")
    scale = ROW / options.tokens
    for name, each in (("everywhere", everywhere), ("at answers only", answers)):
        grown = (each.peak_bytes - each.weight_bytes) * scale
        print(
            f"| {name} | {each.seconds:.3f} | {everywhere.seconds / each.seconds:.1f} | "
            f"{each.peak_bytes / 1e9:.2f} | {everywhere.peak_bytes / each.peak_bytes:.1f} | "
            f"{each.seconds * scale:.1f} | {max(grown, 0) / 1e9:.2f} |"
        )


def _measure(options: Any) -> Measured:
    heads = options.hidden_size // 64
    model_config = ModelConfig(
        num_layers=1,  # not run: only the head is
        hidden_size=options.hidden_size,
        num_attention_heads=heads,
        num_query_groups=heads,
        head_dim=64,
        ffn_hidden_size=64,
        max_position_embeddings=options.tokens,
    )
    with open_world(ParallelConfig(), SINGLE_RANK, seed=1) as world:
        model = build_model(
            model_config,
            ParallelConfig(),
            world,
            TORCH_DTYPES[options.dtype],
            logits=options.logits,
        )
        weight = model.output_layer.weight
        torch.manual_seed(1)
        torch.nn.init.normal_(weight, std=0.02)
        hidden = torch.randn(options.tokens, 1, options.hidden_size).to(weight.dtype)
        hidden.requires_grad_()
        labels = torch.randint(0, model_config.vocab_size, (1, options.tokens))
        answers = max(int(options.tokens * options.answer_share), 1)
        mask = (torch.arange(options.tokens) >= options.tokens - answers).view(1, -1)
        row = packed_row([options.tokens], world.device)
        before = _status("VmRSS")
        seconds = []
        for _ in range(WARM + options.repeats):
            weight.grad = hidden.grad = None
            started = time.perf_counter()
            losses = model._postprocess(
                hidden_states=hidden, labels=labels, loss_mask=mask, packed_seq_params=row
            )
            loss = losses.mean()
            loss.backward()  # type: ignore[no-untyped-call]
            seconds.append(time.perf_counter() - started)
        return Measured(
            seconds=statistics.median(seconds[WARM:]),
            peak_bytes=_status("VmHWM") - before,
            weight_bytes=weight.numel() * weight.element_size(),
            loss=loss.item(),
        )


def _status(name: str) -> int:
    """Return a size from this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


if __name__ == "__main__":
    run_command(main)
