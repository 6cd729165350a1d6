#!/usr/bin/env python3
r"""Cost of probing: shared prefixes compared with ``generate``, requests, building, scoring.

Example:
    python tools/benchmarks/probing.py --pieces PIECES

Everything is measured in one run. The prefix comparison uses a tiny random model of every family,
and probes of the given length; the greedy answers are the same in both cases. Requests are answered
by a local server, in a process of its own, each after 50 ms.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.evaluation.probing.build import BuildConfig, build_probes
from megatron_in2.evaluation.probing.checkpoint_answers import CheckpointAnswerer
from megatron_in2.evaluation.probing.encoding import ProbeEncoder
from megatron_in2.evaluation.probing.endpoint_answers import EndpointAnswerer, EndpointConfig
from megatron_in2.evaluation.probing.score import Grouping, score_predictions
from megatron_in2.files import read_json_lines
from megatron_in2.templates.film import FILM
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import MISTRAL_V1, load_tokenizer

ANSWER_TOKENS = 8
CONCURRENCY = 128
TURNS = 3
SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 448,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "llama 3.1": {"model_type": "llama", "rope_parameters": _LLAMA3},
    "llama 3.2": {"model_type": "llama", "rope_parameters": _LLAMA3, "tie_word_embeddings": True},
    "qwen 2.5": {"model_type": "qwen2"},
    "qwen 3": {"model_type": "qwen3", "head_dim": 32},
    "phi 3": {"model_type": "phi3", "pad_token_id": 0},
}
Result = TypeVar("Result")


def main() -> None:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--pieces", type=Path, required=True, help="folder with the published piece files")
    add("--context-tokens", type=int, default=4_000, help="of the prefix comparison")
    add("--probes", type=int, default=12, help="questions asked about that context")
    add("--requests", type=int, default=5_000, help="to a local endpoint")
    options = parser.read()
    torch.set_num_threads(1)  # less noise on a shared machine
    tokenizer = load_tokenizer(MISTRAL_V1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _compare_prefixes(options.pieces, folder, options.context_tokens, options.probes, tokenizer)
        _time_requests(folder, options.requests)
        _time_building(options.pieces, folder, tokenizer)
        _time_scoring(folder)


def _compare_prefixes(
    pieces: Path, folder: Path, tokens: int, probes: int, tokenizer: Tokenizer
) -> None:
    """Print, for every family, transformers' ``generate`` beside the answers with a shared prefix.

    Ours also compute the likelihood of each true answer.
    """
    config = BuildConfig(context_tokens=tokens, positions=probes, sets=1)
    build_probes(pieces, folder, config, tokenizer, FILM)
    lines = list(read_json_lines(folder / "document.jsonl"))
    for family, settings in FAMILIES.items():
        model = _tiny_model(folder / family, tokens + 1000, tokenizer, settings)
        # Loading is not part of either time; the answerer loads the model for both.
        answerer = CheckpointAnswerer(model, ANSWER_TOKENS, batch_size=len(lines))
        encoder = ProbeEncoder(tokenizer, None, str(model))
        theirs, ours = _Clock(), _Clock()
        for part in range(TURNS):  # in turns: the machine may have other work
            some = lines[part::TURNS]
            with theirs:
                alone = [_generated(answerer.model, encoder.ids(one)[0], encoder) for one in some]
            with ours:
                shared = [one["samples"][0] for one in answerer.answer(lines)]
            assert shared[part::TURNS] == alone
        print(
            f"{family}: {len(lines)} questions about {tokens:,} tokens: generate "
            f"{theirs.wall:.1f} s, context shared {ours.wall / TURNS:.1f} s: "
            f"{TURNS * theirs.wall / ours.wall:.1f} x "
            f"(by CPU time {TURNS * theirs.cpu / ours.cpu:.1f} x)",
            flush=True,
        )


class _Clock:
    """Adds up the wall and CPU seconds of the blocks that it is given to."""

    wall = 0.0
    cpu = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        wall, cpu = self._started
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu


@torch.no_grad()
def _generated(model: Any, prompt: list[int], encoder: ProbeEncoder) -> str:
    ids = torch.tensor([prompt])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=ANSWER_TOKENS,
        eos_token_id=encoder.end_id,
        pad_token_id=encoder.end_id,
    )
    return encoder.tokenizer.decode(output[0, len(prompt) :].tolist())


def _time_requests(folder: Path, count: int) -> None:
    port = folder / "port"
    server = Path(__file__).parent / "contenders" / "chat_server.py"
    settings = json.dumps({"delay": 0.05, "slow": 0.01, "slow_delay": 0.5})
    process = subprocess.Popen([sys.executable, str(server), str(port), settings])
    try:
        while not port.exists():
            time.sleep(0.05)
        url = f"http://127.0.0.1:{port.read_text()}/v1"
        config = EndpointConfig(url, "fake", api="chat", concurrency=CONCURRENCY)
        answerer = EndpointAnswerer(config, ANSWER_TOKENS)
        probes = [(f"p:{n}", {"prompt": f"question {n}", "user": [0, 9]}) for n in range(count)]
        cpu = time.process_time()
        seconds, answers = _timed(lambda: sum(1 for _ in answerer.answer(probes)))
        cpu = time.process_time() - cpu
    finally:
        process.terminate()
        process.wait()
    assert answers == count
    print(
        f"{count:,} requests, {CONCURRENCY} at once: {count / seconds:,.0f} a second; the client "
        f"takes {1000 * cpu / count:.2f} ms of CPU time for one"
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


def _tiny_model(folder: Path, longest: int, tokenizer: Tokenizer, settings: dict[str, Any]) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    values = {**SIZES, "vocab_size": tokenizer.vocab_size, "max_position_embeddings": longest}
    config = AutoConfig.for_model(**values, **settings)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(tokenizer.path.read_bytes())
    return folder


def _timed(work: Callable[[], Result]) -> tuple[float, Result]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


if __name__ == "__main__":
    run_command(main)
