#!/usr/bin/env python3
r"""Cost of probing: shared prefixes compared with none, building, scoring.

Example:
    python tools/benchmarks/probing.py --pieces PIECES

Everything is measured in one run. The prefix comparison uses a tiny Mistral with random weights and
probes of the given length; greedy answers and likelihoods are the same in both cases.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.evaluation.probing.build import BuildConfig, build_probes
from megatron_in2.evaluation.probing.checkpoint_answers import CheckpointAnswerer
from megatron_in2.evaluation.probing.score import Grouping, score_predictions
from megatron_in2.files import read_json_lines
from megatron_in2.templates.film import FILM
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import MISTRAL_V1, load_tokenizer

ANSWER_TOKENS = 8
Result = TypeVar("Result")


def main() -> None:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--pieces", type=Path, required=True, help="folder with the published piece files")
    add("--context-tokens", type=int, default=4_000, help="of the prefix comparison")
    add("--probes", type=int, default=12, help="questions asked about that context")
    options = parser.read()
    torch.set_num_threads(1)  # less noise on a shared machine
    tokenizer = load_tokenizer(MISTRAL_V1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _compare_prefixes(options.pieces, folder, options.context_tokens, options.probes, tokenizer)
        _time_building(options.pieces, folder, tokenizer)
        _time_scoring(folder)


def _compare_prefixes(
    pieces: Path, folder: Path, tokens: int, probes: int, tokenizer: Tokenizer
) -> None:
    config = BuildConfig(context_tokens=tokens, positions=probes, sets=1)
    build_probes(pieces, folder, config, tokenizer, FILM)
    lines = list(read_json_lines(folder / "document.jsonl"))
    model = _tiny_model(folder / "model", tokens + 1000, tokenizer)
    seconds, answers = {}, {}
    for share in (False, True):
        answerer = CheckpointAnswerer(model, ANSWER_TOKENS, share_prefix=share)
        started = time.perf_counter()
        answers[share] = [one["samples"] for one in answerer.answer(lines)]
        seconds[share] = time.perf_counter() - started
    assert answers[True] == answers[False]
    print(
        f"{len(lines)} questions about {tokens:,} tokens: each by itself {seconds[False]:.1f} s, "
        f"context shared {seconds[True]:.1f} s: {seconds[False] / seconds[True]:.1f} x"
    )


def _time_building(pieces: Path, folder: Path, tokenizer: Tokenizer) -> None:
    config = BuildConfig(units=800, context_tokens=40_000)
    seconds, (written, _) = _timed(lambda: build_probes(pieces, folder, config, tokenizer, FILM))
    size = (folder / "document.jsonl").stat().st_size
    copy = folder / "copy.bin"
    written_seconds, _ = _timed(lambda: copy.write_bytes(b"x" * size))
    copy.unlink()
    print(
        f"{written:,} probes of 800 sentences ({size / 1e6:,.0f} MB): built in {seconds:.1f} s; "
        f"writing as many bytes takes {written_seconds:.1f} s"
    )


def _time_scoring(folder: Path, count: int = 10_000) -> None:
    labels, predictions = folder / "labels.jsonl", folder / "predictions.jsonl"
    answer = " ".join(f"word{n}" for n in range(24))
    with labels.open("w") as label_file, predictions.open("w") as prediction_file:
        for n in range(count):
            label = {"completion": answer, "position_id": n // 4 % 800, "set_id": n % 4}
            label_file.write(json.dumps(label) + "\n")
            prediction_file.write(json.dumps({"samples": [answer[: n % 150]]}) + "\n")
    read_seconds, _ = _timed(
        lambda: [list(read_json_lines(path)) for path in (labels, predictions)]
    )
    seconds, report = _timed(
        lambda: score_predictions(labels, predictions, Grouping(), task_name="document")
    )
    print(
        f"{report.probes:,} predictions: read, scored and bootstrapped in {seconds:.2f} s; "
        f"reading the files alone takes {read_seconds:.2f} s"
    )


def _tiny_model(folder: Path, longest: int, tokenizer: Tokenizer) -> Path:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=128,
        intermediate_size=448,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=longest,
        sliding_window=None,
    )
    MistralForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(tokenizer.path.read_bytes())
    return folder


def _timed(work: Callable[[], Result]) -> tuple[float, Result]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


if __name__ == "__main__":
    run_command(main)
