#!/usr/bin/env python3
"""Speed and peak memory of a training step on this CPU, compared with transformers and litgpt.

Example:
    python tools/benchmarks/training.py

The same Mistral (4 layers x 256, 32,000 pieces), from the same weights, on the same rows of one
sample each (so no peer pads or needs boundaries inside a row), trained on 2 % of the tokens,
float32, as many threads as this process may use. Contenders: this package's trainer with logits at
answers only and with all logits; Hugging Face's MistralForCausalLM (attention through
scaled_dot_product_attention); litgpt's GPT (its head and loss in chunks, as its fine-tuning has
them). Both peers compute all logits, as their training commands do, and get torch's fused AdamW,
clipping, and no weight decay on norms, as ours has. One row is a micro-batch for all.

Each contender runs in its own process. They take turns step by step, so that other work on the
machine affects all alike; on a busy machine, compare the ratios of CPU time. Ratios are medians
over the turns. The losses of every step must agree to 1e-4: all start from the same weights, and
each step depends on the previous update. Peak memory is the largest resident set of each process,
and the same minus the resident set after the imports.

litgpt's pins conflict with this package's, so it gets its own environment, created at the first
run.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import MistralConfig, MistralForCausalLM

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.conversion.huggingface_to_megatron import import_checkpoint
from megatron_in2.data.packed.random_rows import write_random_rows
from megatron_in2.errors import InputError
from megatron_in2.progress import progress_bar
from megatron_in2.tokenizers.load import MISTRAL_V1, load_tokenizer
from megatron_in2.training.step.rows import TrainingRows

ROOT = Path(__file__).resolve().parents[2]
LITGPT = "litgpt==0.5.13"
HEAD_DIM = 64
SEED = 1234
WARM_TURNS = 2  # not counted
TOLERANCE = 1e-4  # of a step's loss, relative
OPTIMIZER = {
    "lr": 1e-3,
    "betas": [0.9, 0.95],
    "eps": 1e-8,
    "weight_decay": 0.1,
    "clip_grad": 1.0,
}
OURS = {"ours, answers only": "answers", "ours, all logits": "all"}
PEERS = {"Hugging Face": "huggingface", "litgpt": "litgpt_peer"}
TARGETS = {"ours, answers only": 2.5, "ours, all logits": 1.0}


@dataclass
class Contender:
    """One contender's process and its answers so far."""

    process: subprocess.Popen[str]
    imported_bytes: int = 0
    peak_bytes: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument(
        "--hidden-size", type=int, default=256, help="a multiple of 64, a head's width"
    )
    parser.add_argument("--seq-length", type=int, default=1024, help="tokens a row")
    parser.add_argument("--rows", type=int, default=8, help="rows of a step")
    parser.add_argument("--answer-share", type=float, default=0.02, help="of the tokens")
    parser.add_argument("--turns", type=int, default=7, help="counted steps of each contender")
    parser.add_argument(
        "--litgpt",
        type=Path,
        default=ROOT / "runs" / "benchmarks" / "litgpt",
        help="its environment; made where it is missing",
    )
    parser.add_argument("--without-litgpt", action="store_true")
    options = parser.read()
    pythons = dict.fromkeys(PEERS, sys.executable)
    if options.without_litgpt:
        pythons.pop("litgpt")
    else:
        pythons["litgpt"] = _litgpt_python(options.litgpt)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _prepare(folder, options)
        contenders = {}
        try:
            for title, logits in OURS.items():
                contenders[title] = _start(sys.executable, "ours", str(folder), logits)
            for title, python in pythons.items():
                contenders[title] = _start(python, PEERS[title], str(folder))
            _take_turns(contenders, WARM_TURNS + options.turns)
        finally:
            for contender in contenders.values():
                contender.process.kill()
                contender.process.wait()
    _require_same_losses(contenders)
    _report(contenders, options.rows * options.seq_length)


def _litgpt_python(environment: Path) -> str:
    """Return the interpreter of litgpt's environment, with this environment's torch."""
    python = environment / "bin" / "python"
    if not python.exists():
        print(f"installing {LITGPT} into {environment}", flush=True)
        torch_version = torch.__version__.partition("+")[0]
        try:
            subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
            subprocess.run(
                [str(python), "-m", "pip", "install", "-q", f"torch=={torch_version}", LITGPT],
                check=True,
            )
        except subprocess.CalledProcessError as error:
            shutil.rmtree(environment, ignore_errors=True)
            raise InputError(
                f"{LITGPT} could not be installed ({error}): use --without-litgpt"
            ) from error
    return str(python)


def _prepare(folder: Path, options: Any) -> None:
    """Write the contenders' inputs: weights and rows in both formats, settings."""
    steps = WARM_TURNS + options.turns
    heads = options.hidden_size // HEAD_DIM
    model = ModelConfig(
        num_layers=options.layers,
        hidden_size=options.hidden_size,
        num_attention_heads=heads,
        num_query_groups=max(heads // 4, 1),
        head_dim=HEAD_DIM,
        ffn_hidden_size=options.hidden_size * 7 // 2,
        max_position_embeddings=options.seq_length,
        rope_theta=1e4,
    )
    tokenizer = load_tokenizer(MISTRAL_V1)
    torch.manual_seed(SEED)
    MistralForCausalLM(
        MistralConfig(
            num_hidden_layers=model.num_layers,
            hidden_size=model.hidden_size,
            num_attention_heads=model.num_attention_heads,
            num_key_value_heads=model.num_query_groups,
            head_dim=model.head_dim,
            intermediate_size=model.ffn_hidden_size,
            vocab_size=model.vocab_size,
            max_position_embeddings=model.max_position_embeddings,
            rope_theta=model.rope_theta,
            rms_norm_eps=model.norm_epsilon,
            sliding_window=None,
        )
    ).save_pretrained(folder / "hf")
    shutil.copyfile(tokenizer.path, folder / "hf" / "tokenizer.model")
    import_checkpoint(folder / "hf", folder / "megatron")
    rows = steps * options.rows
    write_random_rows(
        folder / "rows", tokenizer, rows, [options.seq_length], options.answer_share, SEED
    )
    dataset = TrainingRows(str(folder / "rows"), SEED)
    chosen = [dataset[place] for place in dataset.at(np.arange(rows))]
    tokens = np.stack([row.tokens for row in chosen]).reshape(steps, options.rows, -1)
    mask = np.stack([row.loss_mask for row in chosen]).reshape(tokens.shape)
    np.save(folder / "tokens.npy", tokens)
    np.save(folder / "labels.npy", np.where(mask == 1, tokens, -100))
    sizes = {name: value for name, value in asdict(model).items() if name != "logits"}
    settings = {"seq_length": options.seq_length, "rows": options.rows, "steps": steps}
    (folder / "sizes.json").write_text(json.dumps({"model": sizes, "seed": SEED, **settings}))
    (folder / "optimizer.json").write_text(json.dumps(OPTIMIZER))


def _start(python: str, module: str, *arguments: str) -> Contender:
    process = subprocess.Popen(
        [python, "-m", f"tools.benchmarks.contenders.{module}", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    return Contender(process)


def _read(contender: Contender) -> dict[str, Any]:
    assert contender.process.stdout is not None
    line = contender.process.stdout.readline()
    if not line:
        raise RuntimeError(f"{contender.process.args!r} ended: see its error above")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _take_turns(contenders: dict[str, Contender], turns: int) -> None:
    ordered = list(contenders.values())
    for contender in ordered:
        contender.imported_bytes = _read(contender)["imported_bytes"]
    for _ in progress_bar(range(turns), desc="turns", unit=" turns"):
        for contender in ordered:
            assert contender.process.stdin is not None
            contender.process.stdin.write("step\n")
            contender.process.stdin.flush()
            answer = _read(contender)
            contender.losses.append(answer["loss"])
            contender.seconds.append(answer["seconds"])
            contender.cpu_seconds.append(answer["cpu_seconds"])
            contender.peak_bytes = answer["peak_bytes"]
        ordered.reverse()


def _require_same_losses(contenders: dict[str, Contender]) -> None:
    losses = np.array([contender.losses for contender in contenders.values()])
    worst = float((np.abs(losses / losses[0] - 1)).max())
    if worst > TOLERANCE:
        raise RuntimeError(f"the contenders' losses differ by {worst:.1e}: {losses.tolist()}")
    print(
        f"losses of {losses.shape[1]} steps agree to {worst:.1e} relative "
        f"({losses[0, 0]:.4f} to {losses[0, -1]:.4f})"
    )


def _report(contenders: dict[str, Contender], tokens: int) -> None:
    peers = [title for title in contenders if title in PEERS]
    print(f"{tokens:,} tokens a step, {len(os.sched_getaffinity(0))} threads, float32")
    columns = ["contender", "tokens/s", *(f"x {peer}" for peer in peers), "target"]
    columns += [f"x {peer} by CPU time" for peer in peers]
    columns += ["peak MB", "less imports", *(f"peak / {peer}" for peer in peers)]
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    for title, own in contenders.items():
        theirs = [contenders[peer] for peer in peers]
        cells = [title, f"{tokens / statistics.median(own.seconds[WARM_TURNS:]):,.0f}"]
        cells += [_median_ratio(their.seconds, own.seconds) for their in theirs]
        cells += [f">= {TARGETS[title]:.1f}" if title in TARGETS else ""]
        cells += [_median_ratio(their.cpu_seconds, own.cpu_seconds) for their in theirs]
        cells += [
            f"{size / 1e6:,.0f}" for size in (own.peak_bytes, own.peak_bytes - own.imported_bytes)
        ]
        cells += [f"{own.peak_bytes / their.peak_bytes:.2f}" for their in theirs]
        print(f"| {' | '.join(cells)} |")


def _median_ratio(above: list[float], below: list[float]) -> str:
    pairs = zip(above[WARM_TURNS:], below[WARM_TURNS:], strict=True)
    return f"{statistics.median(a / b for a, b in pairs):.2f}"


if __name__ == "__main__":
    run_command(main)
