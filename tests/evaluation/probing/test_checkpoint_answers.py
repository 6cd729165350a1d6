"""Answers of a checkpoint: sharing, batching and resuming change nothing but the time."""

import json
import math
from pathlib import Path

import pytest
import torch

from megatron_in2.errors import InputError
from megatron_in2.evaluation.lines import Line
from megatron_in2.evaluation.probing.checkpoint_answers import CheckpointAnswerer
from megatron_in2.evaluation.probing.generate import generate_predictions
from megatron_in2.evaluation.probing.score import Grouping, score_predictions
from megatron_in2.files import read_json_lines
from megatron_in2.templates.base import Turn
from megatron_in2.templates.ids import end_id, part_ids
from megatron_in2.templates.load import load_template
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import load_tokenizer
from tests.evaluation.conftest import LONGEST
from tests.families import ONE_GROUP, save_model

SENTENCES = [f"Entry {n} tells of matter {n % 7}." for n in range(40)]


@pytest.fixture(scope="module")
def lines() -> list[Line]:
    """Two contexts, asked about five times each, then one of its own."""
    probes: list[Line] = []
    for start in (0, 20):
        context = "\n".join(SENTENCES[start : start + 20])
        for n in range(start, start + 20, 4):
            question = f"Which tells of {n} " + "and more " * (n % 5) + "?"
            probes.append(("p", {"prompt": f"{context}\n{question}", "completion": SENTENCES[n]}))
    return [*probes, ("p", {"prompt": "A short one.", "completion": "Yes."})]


@pytest.fixture(scope="module")
def alone(tiny_model: Path, lines: list[Line]) -> list[dict]:
    answerer = CheckpointAnswerer(tiny_model, max_new_tokens=12, share_prefix=False)
    return list(answerer.answer(lines))


def test_one_at_a_time_is_what_transformers_gives(
    tiny_model: Path, small_tokenizer: Tokenizer, lines: list[Line], alone: list[dict]
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    for (_, probe), prediction in zip(lines, alone, strict=True):
        prompt = [small_tokenizer.bos_id, *small_tokenizer.encode(probe["prompt"])]
        answer = [*small_tokenizer.encode(probe["completion"]), small_tokenizer.eos_id]
        with torch.no_grad():
            output = model.generate(
                torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0
            )
            logits = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        expected = sum(
            float(logits[place, token]) for place, token in zip(places, answer, strict=True)
        )
        assert prediction["samples"] == [small_tokenizer.decode(output[0, len(prompt) :].tolist())]
        assert prediction["answer_log_likelihood"] == pytest.approx(expected, rel=1e-5)
        assert prediction["answer_tokens"] == len(answer)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_shared_prefixes_and_batches_give_the_same_answers(
    tiny_model: Path, lines: list[Line], alone: list[dict], batch_size: int
) -> None:
    answerer = CheckpointAnswerer(tiny_model, max_new_tokens=12, batch_size=batch_size)
    for one, other in zip(answerer.answer(lines), alone, strict=True):
        assert one["samples"] == other["samples"]
        assert one["answer_log_likelihood"] == pytest.approx(
            other["answer_log_likelihood"], rel=1e-5
        )


@pytest.mark.parametrize("family", ONE_GROUP)
def test_every_family_answers_as_generate_does(
    family: str, small_tokenizer: Tokenizer, lines: list[Line], tmp_path: Path
) -> None:
    sizes = {"vocab_size": small_tokenizer.vocab_size, "max_position_embeddings": LONGEST}
    folder = save_model(family, tmp_path / "model", small_tokenizer.path, **sizes)
    answerer = CheckpointAnswerer(folder, max_new_tokens=6, batch_size=5)
    asked = [*lines[:5], lines[-1]]
    expected = []
    for _, probe in asked:
        prompt = [small_tokenizer.bos_id, *small_tokenizer.encode(probe["prompt"])]
        with torch.no_grad():
            output = answerer.model.generate(
                torch.tensor([prompt]),
                max_new_tokens=6,
                do_sample=False,
                eos_token_id=small_tokenizer.eos_id,
                pad_token_id=0,
            )
        expected.append(small_tokenizer.decode(output[0, len(prompt) :].tolist()))
    assert [one["samples"][0] for one in answerer.answer(asked)] == expected
    assert len(set(expected)) > 1  # not one text for all


@pytest.mark.parametrize("answered", [True, False])
def test_a_sliding_window_and_probes_without_an_answer(
    answered: bool, small_tokenizer: Tokenizer, lines: list[Line], tmp_path: Path
) -> None:
    """A cache that forgets cannot give the answers back that were tried in it."""
    window = 48
    sizes = {"vocab_size": small_tokenizer.vocab_size, "max_position_embeddings": LONGEST}
    folder = save_model(
        "mistral", tmp_path / "m", small_tokenizer.path, **sizes, sliding_window=window
    )
    asked = lines if answered else [(where, {"prompt": row["prompt"]}) for where, row in lines]
    together, apart = (
        list(CheckpointAnswerer(folder, 6, batch_size=size, share_prefix=share).answer(asked))
        for size, share in ((4, True), (1, False))
    )
    assert [one["samples"] for one in together] == [one["samples"] for one in apart]
    for one, other in zip(together, apart, strict=True):
        assert ("answer_log_likelihood" in one) == answered
        if answered:
            expected = pytest.approx(other["answer_log_likelihood"], rel=1e-5)
            assert one["answer_log_likelihood"] == expected
    assert len(small_tokenizer.encode(lines[0][1]["prompt"])) > 2 * window


def test_a_shared_prefix_is_computed_once(
    tiny_model: Path, lines: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: dict[bool, int] = {}
    for share in (True, False):
        answerer = CheckpointAnswerer(tiny_model, max_new_tokens=1, share_prefix=share)
        lengths: list[int] = []
        prefill = answerer._prefill
        monkeypatch.setattr(
            answerer,
            "_prefill",
            lambda ids, prefill=prefill, lengths=lengths: (lengths.append(len(ids)), prefill(ids))[
                1
            ],
        )
        list(answerer.answer(lines))
        computed[share] = sum(lengths)
        assert len(lengths) == (3 if share else 11)
    assert computed[True] < 0.25 * computed[False]


def test_random_weights_find_nothing(probes: Path, tiny_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.jsonl"
    asked = tmp_path / "asked.jsonl"
    asked.write_text("\n".join((probes / "code.jsonl").read_text().splitlines()[:30]))
    with pytest.raises(InputError, match=r"asked\.jsonl:1: prompt and answer take \d+ tokens, .*"):
        generate_predictions(CheckpointAnswerer(tiny_model, 2000), asked, output)
    output.unlink()
    shorter = [json.loads(line) for line in asked.read_text().splitlines()]
    for probe in shorter:  # the tiny model takes 2,048 tokens
        probe["prompt"] = probe["prompt"][:300] + probe["prompt"][-300:]
    asked.write_text("\n".join(map(json.dumps, shorter)))
    generate_predictions(CheckpointAnswerer(tiny_model, 8, batch_size=4), asked, output)
    report = score_predictions(asked, output, Grouping())
    assert report.average == 0.0
    # A random model spreads its probability over its 1,003 pieces.
    (depth,) = report.depths
    assert depth.log_likelihood == pytest.approx(-math.log(1003), abs=0.5)


def test_an_interrupted_run_continues(tiny_model: Path, lines: list[Line], tmp_path: Path) -> None:
    asked, output = tmp_path / "asked.jsonl", tmp_path / "x.jsonl"
    asked.write_text("\n".join(json.dumps(probe) for _, probe in lines))
    answerer = CheckpointAnswerer(tiny_model, max_new_tokens=12)
    assert generate_predictions(answerer, asked, output) == len(lines)
    whole = output.read_bytes()
    for kept in (0, 10, len(whole) // 2, len(whole) - 1):
        output.write_bytes(whole[:kept])
        generate_predictions(answerer, asked, output)
        again = [line for _, line in read_json_lines(output)]
        for one, line in zip(again, whole.decode().splitlines(), strict=True):
            assert one["samples"] == json.loads(line)["samples"]
    with pytest.raises(InputError, match="predictions of another run"):
        generate_predictions(CheckpointAnswerer(tiny_model, max_new_tokens=13), asked, output)
    asked.write_text("{}")
    with pytest.raises(InputError, match=r"asked\.jsonl:1: field 'prompt' is missing"):
        generate_predictions(answerer, asked, tmp_path / "y.jsonl")
    asked.write_text("")
    with pytest.raises(InputError, match=r"asked\.jsonl holds no probes"):
        generate_predictions(answerer, asked, tmp_path / "y.jsonl")


def test_folders_that_are_no_checkpoint(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no Hugging Face checkpoint \(no config\.json\)"):
        CheckpointAnswerer(tmp_path, 8)
    (tmp_path / "iter_0000010").mkdir()
    with pytest.raises(InputError, match=r"export it first: in2 convert"):
        CheckpointAnswerer(tmp_path, 8)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    with pytest.raises(InputError, match=r"bare holds no tokenizer\.model"):
        CheckpointAnswerer(bare, 8)
    (bare / "tokenizer.model").write_bytes((tiny_model / "tokenizer.model").read_bytes())
    with pytest.raises(InputError, match="bare cannot be loaded"):
        CheckpointAnswerer(bare, 8)
    for numbers in ((0, 1), (8, 0)):
        with pytest.raises(InputError, match="give 1 or more"):
            CheckpointAnswerer(tiny_model, *numbers)


def test_probes_are_encoded_as_the_model_was_trained(own_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    tokenizer, template = load_tokenizer(str(own_model)), load_template(str(own_model))
    message = template.wording.message("Who ran?", "Bob sat.<|eot_id|>\nAnn ran.")
    prompt = template.prompt_text(message)
    probe = {"prompt": prompt, "completion": "Ann.", "user": list(template.user_span(prompt))}
    parts = template.parts(None, [Turn(message, "Ann.")])
    ids = part_ids(parts, tokenizer)
    assert ids.count(end_id(template, tokenizer)) == 3  # not the one in the context
    answer = part_ids(parts[-2:], tokenizer)
    model = AutoModelForCausalLM.from_pretrained(own_model, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    places = range(len(ids) - len(answer) - 1, len(ids) - 1)
    expected = sum(float(logits[place, ids[place + 1]]) for place in places)
    answerer = CheckpointAnswerer(own_model, max_new_tokens=2)
    (prediction,) = answerer.answer([("p:1", probe)])
    assert prediction["answer_tokens"] == len(answer)
    assert prediction["answer_log_likelihood"] == pytest.approx(expected, rel=1e-5)
    probe["prompt"] = prompt.replace("Today Date", "The Date")
    with pytest.raises(InputError, match=r"p:1: the prompt has the control token <\|"):
        list(answerer.answer([("p:1", {**probe, "user": [v - 2 for v in probe["user"]]})]))
