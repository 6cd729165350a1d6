"""Answers probes with a Hugging Face checkpoint: greedy text, and the true answer's likelihood."""

import json
import os
from pathlib import Path
from typing import Any

import torch

from megatron_in2.errors import InputError
from megatron_in2.files import read_json, read_json_lines, sha256_of_file, write_json
from megatron_in2.progress import progress_bar
from megatron_in2.tokenizer import Tokenizer, load_tokenizer


def generate_predictions(
    model_folder: Path, probes: Path, output: Path, max_new_tokens: int
) -> int:
    """Write one prediction a line, in the probes' order, and return their number.

    A line has ``samples`` (the greedy answer, as published predictions have it),
    ``answer_log_likelihood`` (natural log, of the true answer with its end-of-sequence, teacher
    forced) and ``answer_tokens``. An interrupted run goes on where it stopped; what it answers,
    and with which weights, stands in ``output`` + ``.run.json``.

    Raises:
        InputError: the model cannot be read, a probe is longer than it can take, or ``output``
            holds predictions of another run.
    """
    records = list(read_json_lines(probes))
    model, tokenizer = _load(model_folder)
    run = {
        "probes_sha256": sha256_of_file(probes),
        "weights": _fingerprint(model_folder),
        "max_new_tokens": max_new_tokens,
    }
    done = _resume(output, run)
    longest = model.config.max_position_embeddings
    with open(output, "a", encoding="utf-8") as stream:
        remaining = progress_bar(
            records[done:], desc="generate", unit=" probes", initial=done, total=len(records)
        )
        for where, probe in remaining:
            prompt, answer = _encode(probe, tokenizer, where)
            if len(prompt) + max(len(answer), max_new_tokens) > longest:
                raise InputError(
                    f"{where}: prompt and answer exceed the {longest} tokens of {model_folder}: "
                    "build shorter probes"
                )
            prediction = {
                "samples": [_greedy(model, tokenizer, prompt, max_new_tokens)],
                "answer_log_likelihood": _log_likelihood(model, prompt, answer),
                "answer_tokens": len(answer),
            }
            stream.write(json.dumps(prediction, ensure_ascii=False) + "\n")
            stream.flush()
    return len(records)


def _resume(output: Path, run: dict[str, Any]) -> int:
    """Return how many predictions of this very run stand already, a torn last line cut off."""
    description = output.with_name(f"{output.name}.run.json")
    if not output.exists():
        write_json(description, run)
        return 0
    if not description.exists() or read_json(description) != run:
        raise InputError(f"{output} holds predictions of another run: name another output")
    content = output.read_bytes()
    whole = content.rfind(b"\n") + 1
    os.truncate(output, whole)
    return content.count(b"\n", 0, whole)


def _fingerprint(folder: Path) -> dict[str, list[int]]:
    """Tell weights apart without reading gigabytes: each file's size and time."""
    files = sorted(folder.glob("*.safetensors"))
    return {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files}


def _load(folder: Path) -> tuple[Any, Tokenizer]:
    from transformers import AutoModelForCausalLM

    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is no Hugging Face checkpoint (no config.json): export one")
    on_gpu = torch.cuda.is_available()
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16 if on_gpu else torch.float32
    )
    return model.to("cuda" if on_gpu else "cpu").eval(), load_tokenizer(str(folder))


def _encode(probe: dict[str, Any], tokenizer: Tokenizer, where: str) -> tuple[list[int], list[int]]:
    """Encode by the training's token rule: prompt and answer apart."""
    for field in ("prompt", "completion"):
        if not isinstance(probe.get(field), str):
            raise InputError(f"{where}: field {field!r} is missing or not text")
    prompt = [tokenizer.bos_id, *tokenizer.encode(probe["prompt"])]
    return prompt, [*tokenizer.encode(probe["completion"]), tokenizer.eos_id]


@torch.no_grad()
def _log_likelihood(model: Any, prompt: list[int], answer: list[int]) -> float:
    ids = torch.tensor([prompt + answer], device=model.device)
    # Only the answer's predictions need logits: those from the prompt's last token on.
    logits = model(ids, logits_to_keep=len(answer) + 1).logits[0, :-1].float()
    targets = torch.tensor(answer, device=model.device)
    return -float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))


@torch.no_grad()
def _greedy(model: Any, tokenizer: Tokenizer, prompt: list[int], max_new_tokens: int) -> str:
    ids = torch.tensor([prompt], device=model.device)
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.eos_id,
    )
    return tokenizer.decode(output[0, len(prompt) :].tolist())
