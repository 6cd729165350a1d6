"""Attempts of a checkpoint: those of a whole computation, whatever is drawn before them."""

from pathlib import Path

import pytest
import torch

from megatron_in2.data.packing.encoding.encode import SampleEncoder
from megatron_in2.data.packing.encoding.samples import SampleReader
from megatron_in2.errors import InputError
from megatron_in2.evaluation.attempts import CheckpointAttempts, as_text, prompt_ids
from megatron_in2.evaluation.probing.checkpoint_answers import CheckpointAnswerer
from megatron_in2.records import id_hash
from megatron_in2.segment_store import write_store
from megatron_in2.synthesis.self_correction.config import SelfCorrectionConfig
from megatron_in2.synthesis.self_correction.tasks import Task
from megatron_in2.templates.film import FILM
from megatron_in2.tokenizers.base import Tokenizer

CONFIG = SelfCorrectionConfig(tries=3, max_new_tokens=8)


def _task(number: int, question: str = "Which is it?") -> Task:
    record = {"id": f"s{number}", "kind": "k", "question": f"{question} {number}", "answer": "It."}
    return Task("x:1", record, SampleReader(FILM).read(record, "x:1", Path()))


def test_attempts_are_those_of_transformers(tiny_model: Path, small_tokenizer: Tokenizer) -> None:
    answerer = CheckpointAnswerer(tiny_model, max_new_tokens=8)
    drawer = CheckpointAttempts(answerer, FILM, CONFIG)
    prompt = prompt_ids(SampleEncoder(small_tokenizer).encode(_task(1).sample))
    assert prompt.tolist() == [1, *small_tokenizer.encode(FILM.prompt("Which is it? 1", None))]
    rows = drawer._sampled(prompt, "s1")
    torch.manual_seed(id_hash("1234/s1") % 2**63)
    expected = answerer.model.generate(
        torch.from_numpy(prompt).expand(3, -1),
        do_sample=True,
        temperature=0.8,
        top_p=1.0,
        top_k=0,
        max_new_tokens=8,
        pad_token_id=2,
    )
    assert rows == expected[:, len(prompt) :].tolist()
    assert len({tuple(row) for row in rows}) > 1
    assert drawer._sampled(prompt, "s2") != rows


def test_a_store_of_another_tokenizer_is_read_as_text(
    tiny_model: Path, tokenizer: Tokenizer, small_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """An export's tokenizer is none that a store was made with, though it gives the same ids."""
    lines = ["The lamp is red.", "The pier is long.", "It rains."]
    store = tmp_path / "x.segments"
    write_store(store, [("d", list(zip(lines, tokenizer.encode_lines(lines), strict=True)))],
                tokenizer)  # fmt: skip
    recipe = {"id": "r", "kind": "k", "store": store.name, "segments": [2, 0, 1], "evidence": [1],
              "question": "Which?", "answer": "Red.", "n_tokens": 3}  # fmt: skip
    sample = SampleReader(FILM).read(recipe, "x:1", tmp_path)
    encoder = SampleEncoder(small_tokenizer)
    with pytest.raises(InputError, match="was tokenised with another tokenizer"):
        encoder.encode(sample)
    context = "It rains.\nThe lamp is red.\nThe pier is long."
    expected = [1, *small_tokenizer.encode(FILM.prompt("Which?", context))]
    assert prompt_ids(encoder.encode(as_text(sample))).tolist() == expected
    drawer = CheckpointAttempts(CheckpointAnswerer(tiny_model, 8), FILM, CONFIG)
    (drawn,) = drawer.draw([Task("x:1", recipe, sample)])
    assert drawn.problem is None
    wrong = {**recipe, "segments": [3]}
    with pytest.raises(InputError, match="segment 3 is beyond the 3"):
        as_text(SampleReader(FILM).read({**wrong, "evidence": [0]}, "x:1", tmp_path))


def test_draws_do_not_depend_on_those_before(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawer = CheckpointAttempts(CheckpointAnswerer(tiny_model, 8), FILM, CONFIG)
    ends = drawer._sampled(prompt_ids(drawer._encoder.encode(_task(1).sample)), "s1")[0][4]
    monkeypatch.setattr(drawer, "_end_id", ends)  # a token that this model does say
    first, second = drawer.draw([_task(1), _task(2)])
    assert list(drawer.draw([_task(2)])) == [second]
    assert len(first.texts) + first.cut_off == 3
    assert first.texts
    (long,) = drawer.draw([_task(3, "word " * 2048)])
    assert long.problem == "prompt and attempt are longer than the model takes"
