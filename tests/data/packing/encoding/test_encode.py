"""Encoding: designs and templates to the token, joined contexts, truncation."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_common.protocol.instruct.messages import AssistantMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from megatron_in2.data.packing.encoding.designs import DESIGNS
from megatron_in2.data.packing.encoding.encode import SampleEncoder
from megatron_in2.data.packing.encoding.samples import SampleError, SampleReader, read_samples
from megatron_in2.errors import InputError
from megatron_in2.files import read_json_lines
from megatron_in2.records import EncodedSample, JoinedPart
from megatron_in2.segment_store import SegmentStore, write_store
from megatron_in2.templates.chatml import CHATML
from megatron_in2.templates.film import FILM
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import load_tokenizer

Encode = Callable[..., EncodedSample]

CHAT = [
    {"role": "system", "content": "Think in steps, list facts first."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Two.", "train": False},
    {"role": "user", "content": "Three?"},
    {"role": "assistant", "content": "Four."},
]


@pytest.fixture
def encode(tokenizer: Tokenizer, tmp_path: Path) -> Encode:
    def run(record: dict[str, Any], design: str = "answer", template: Any = FILM) -> EncodedSample:
        reader = SampleReader(template, DESIGNS[design], "Generic.")
        return SampleEncoder(tokenizer).encode(reader.read(record, "x:1", tmp_path))

    return run


def _learnt(tokenizer: Tokenizer, sample: EncodedSample) -> list[str]:
    """The trained runs, as text; the end-of-sequence as </s>."""
    steps = np.flatnonzero(np.diff(sample.loss_mask.astype(int), prepend=0, append=0))
    return [
        tokenizer.decode(sample.tokens[start:end])
        + ("</s>" if sample.tokens[end - 1] == tokenizer.eos_id else "")
        for start, end in zip(steps[::2], steps[1::2], strict=True)
    ]


def _unlearnt(tokenizer: Tokenizer, sample: EncodedSample) -> str:
    return tokenizer.decode(sample.tokens[sample.loss_mask == 0])


def test_design_answer_obeys_train(encode: Encode, tokenizer: Tokenizer) -> None:
    sample = encode({"id": "a", "messages": CHAT})
    assert _learnt(tokenizer, sample) == ["Four.</s>"]


def test_design_all_assistant_turns(encode: Encode, tokenizer: Tokenizer) -> None:
    sample = encode({"id": "a", "messages": CHAT}, "all-assistant-turns")
    assert _learnt(tokenizer, sample) == ["Two.</s>", "Four.</s>"]


def test_design_prompt_erasing(encode: Encode, tokenizer: Tokenizer) -> None:
    sample = encode({"id": "a", "messages": CHAT}, "prompt-erasing")
    untrained = _unlearnt(tokenizer, sample)
    assert "[INST] Generic.\n\nOne? [/INST]" in untrained
    assert "Think in steps" not in untrained
    without_system = encode({"id": "a", "messages": CHAT[1:]}, "prompt-erasing")
    assert "Generic" not in _unlearnt(tokenizer, without_system)


def test_design_partial_answer_masking(encode: Encode, tokenizer: Tokenizer) -> None:
    record = {"id": "a", "kind": "k", "context": None, "question": "2+2?"}
    record |= {"attempt": "It is 5.", "answer": "Check: no, it is 4."}
    sample = encode(record, "partial-answer-masking")
    encoder = tokenizer.encode
    prompt = encoder(FILM.prompt("2+2?", None))
    answer = [*encoder("Check: no, it is 4."), 2]
    assert sample.tokens.tolist() == [1, *prompt, *encoder("It is 5."), *answer]
    assert sample.loss_mask.sum() == len(answer)
    assert sample.loss_mask[-len(answer) :].all()


def test_partial_answer_masking_takes_samples_without_an_attempt_too(
    encode: Encode, tokenizer: Tokenizer
) -> None:
    record = {"id": "a", "kind": "k", "context": None, "question": "2+2?", "answer": "4."}
    masked, plain = encode(record, "partial-answer-masking"), encode(record)
    assert masked.tokens.tolist() == plain.tokens.tolist()
    assert masked.loss_mask.tolist() == plain.loss_mask.tolist()


PROMPT = "2+2?"
FORMS = {
    "text": {"kind": "k", "question": PROMPT, "answer": "4."},
    "chat": {
        "messages": [
            {"role": "user", "content": PROMPT},
            {"role": "assistant", "content": "4."},
        ]
    },
    "parts": {"parts": [{"text": PROMPT, "learn": False}, {"text": "4.", "learn": True}]},
}


def _with_attempt(form: str, attempt: Any, recipes: Path) -> dict[str, Any]:
    if form == "recipe":
        _, record = next(iter(read_json_lines(recipes)))
        return {**record, "store": str(recipes.parent / record["store"]), "attempt": attempt}
    return {"id": "a", **FORMS[form], "attempt": attempt}


@pytest.mark.parametrize("template", [FILM, CHATML], ids=lambda each: each.name)
@pytest.mark.parametrize("form", [*FORMS, "recipe"])
def test_attempts_in_every_form(
    encode: Encode, tokenizer: Tokenizer, recipes: Path, form: str, template: Any
) -> None:
    end = "" if form == "parts" else template.answer_end
    attempts = [{"text": "5.", "verification": "Too much."}, {"text": "3.", "verification": "No."}]
    record = _with_attempt(form, attempts, recipes)
    answer = record.get("answer", "4.")
    sample = encode(record, "partial-answer-masking", template)
    assert _learnt(tokenizer, sample) == ["Too much.", f"No. {answer}{end}</s>"]
    plain = encode({**record, "attempt": None}, "partial-answer-masking", template)
    prompt = plain.tokens[: int(np.flatnonzero(plain.loss_mask)[0])].tolist()
    texts = "5.", "Too much.", "3.", f"No. {answer}{end}"
    ids = [index for text in texts for index in tokenizer.encode(text)]
    assert sample.tokens.tolist() == [*prompt, *ids, tokenizer.eos_id]
    one = encode(_with_attempt(form, "5.", recipes), "partial-answer-masking", template)
    assert _learnt(tokenizer, one) == [f"{answer}{end}</s>"]
    assert _unlearnt(tokenizer, one).endswith("5.")


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (" ", "'attempt' is empty"),
        ([], "'attempt' must be a list of objects"),
        (["5."], "'attempt' must be a list of objects"),
        (3, "'attempt' must be str, found 3"),
        ([{"text": ""}], r"attempt\[0\]: field 'text' is empty"),
        ([{"text": "5."}, {"text": "3."}], r"attempt\[0\]: field 'verification' must be str"),
        ([{"text": "5.", "verificaton": "No."}], "'verificaton' looks like 'verification'"),
    ],
)
@pytest.mark.parametrize("form", [*FORMS, "recipe"])
def test_attempts_that_are_none(
    encode: Encode, recipes: Path, form: str, attempt: Any, words: str
) -> None:
    with pytest.raises(SampleError, match=words):
        encode(_with_attempt(form, attempt, recipes), "partial-answer-masking")


def test_an_attempt_needs_a_trained_answer_behind_it(encode: Encode) -> None:
    turns = [*CHAT[1:3], *CHAT[3:4], {**CHAT[4], "train": False}]
    parts = [{"text": "Q", "learn": True}, {"text": "A", "learn": False}]
    for record in ({"id": "a", "messages": turns}, {"id": "a", "parts": parts}):
        with pytest.raises(SampleError, match="'attempt' has no answer behind it"):
            encode({**record, "attempt": "B"}, "partial-answer-masking")


def test_a_part_may_be_white_space(encode: Encode, tokenizer: Tokenizer) -> None:
    parts = [{"text": "Q", "learn": False}, {"text": "\n", "learn": True}]
    sample = encode({"id": "a", "parts": parts})
    assert sample.tokens.tolist() == [1, *tokenizer.encode("Q"), *tokenizer.encode("\n"), 2]


def test_chatml_to_the_byte(encode: Encode, tokenizer: Tokenizer) -> None:
    sample = encode({"id": "a", "messages": CHAT}, template=CHATML)
    expected = (
        "<|im_start|>system\nThink in steps, list facts first.<|im_end|>\n"
        "<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\n"
    )
    first = tokenizer.encode(expected)
    assert sample.tokens[1 : 1 + len(first)].tolist() == first
    assert _learnt(tokenizer, sample) == ["Four.<|im_end|></s>"]


def test_learnt_parts_that_touch_are_one_span(encode: Encode, tokenizer: Tokenizer) -> None:
    parts = [("Q", False), ("first", True), ("second", True)]
    record = {"id": "a", "parts": [{"text": text, "learn": learn} for text, learn in parts]}
    sample = encode(record)
    assert sample.tokens.tolist() == [
        *(1, *tokenizer.encode("Q"), *tokenizer.encode("first"), *tokenizer.encode("second"), 2)
    ]
    assert sample.loss_mask.tolist() == [0, 0, *([1] * (len(sample.tokens) - 2))]


def test_control_words_in_content_stay_text_and_markers_are_counted(tmp_path: Path) -> None:
    reader = SampleReader(FILM)
    record = {"id": "a", "kind": "k", "context": None, "question": "[INST] </s> ?", "answer": "<s>"}
    reader.read(record, "x:1", tmp_path)
    assert reader.notes == {"samples with [INST] in a user's text": 1}


@settings(max_examples=200, deadline=None)
@given(
    context=st.text(st.characters(exclude_categories=("Cs",)), max_size=80),
    question=st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30),
    answer=st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30),
)
def test_any_text_round_trips(
    tokenizer: Tokenizer, context: str, question: str, answer: str
) -> None:
    record = {"id": "a", "kind": "k", "context": context, "question": question, "answer": answer}
    if question.isspace() or answer.isspace():
        with pytest.raises(SampleError, match="is empty"):
            SampleReader(FILM).read(record, "x:1", Path())
        return
    sample = SampleEncoder(tokenizer).encode(SampleReader(FILM).read(record, "x:1", Path()))
    direct = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    prompt, reply = direct.encode(FILM.prompt(question, context)), [*direct.encode(answer), 2]
    assert sample.tokens.tolist() == [1, *prompt, *reply]
    assert sample.loss_mask.tolist() == [0] * (1 + len(prompt)) + [1] * len(reply)
    assert direct.decode(sample.tokens[sample.loss_mask == 1].tolist()) == answer.replace("▁", " ")


def test_thousands_of_random_joins_equal_the_whole_text(
    tokenizer: Tokenizer, texts: list[str], tmp_path: Path
) -> None:
    pieces = [line for text in texts for line in text.split("\n") if line.strip()]
    pieces += ["日本語 текст", "a  b", "\tcode()", "🙂 e\u0301", " ends ", "▁", "<s> </s>"]
    segments = list(zip(pieces, tokenizer.encode_lines(pieces), strict=True))
    store = write_store(tmp_path / "store", [("d", segments)], tokenizer)
    direct = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    chance = np.random.default_rng(0)
    before = FILM.prompt("Q", "\0").split("\0")[0]
    start = direct.encode(before)
    for _ in range(3000):
        chosen = chance.integers(0, len(pieces), chance.integers(1, 9))
        joined = np.frombuffer(store.join_bytes(chosen, tokenizer.line_end), np.uint16)
        assert store.joined_length(chosen) == len(joined)
        whole = direct.encode(before + "\n".join(pieces[index] for index in chosen))
        assert [*start, *joined.tolist()] == whole


def test_joins_are_verified_at_run_time(tokenizer: Tokenizer, recipes: Path) -> None:
    encoder = SampleEncoder(tokenizer, verify_joins=1.0)
    samples = [sample for _, sample in read_samples(recipes, FILM)]
    for sample in samples:
        encoder.encode_compact(sample)
    assert encoder.notes == {"joins verified against whole texts": len(samples)}


def test_a_damaged_store_is_found_by_verifying_joins(
    tokenizer: Tokenizer, recipes: Path, tmp_path: Path
) -> None:
    _, sample = next(iter(read_samples(recipes, FILM)))
    part = next(each for each in sample.parts if isinstance(each, JoinedPart))
    copy = tmp_path / "store"
    copy.mkdir()
    for file in part.store.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    tokens = np.memmap(copy / "tokens.bin", np.uint16, "r+")
    store = SegmentStore(copy)
    tokens[store.offsets[part.segments[0]]] ^= 1
    tokens.flush()
    parts = tuple(replace(part, store=copy) if each is part else each for each in sample.parts)
    damaged = replace(sample, parts=parts)
    with pytest.raises(InputError, match="differ from their whole text's"):
        SampleEncoder(tokenizer, verify_joins=1.0).encode(damaged)


def test_a_tokenizer_that_cannot_join_encodes_whole_texts(
    tmp_path: Path, texts: list[str], tokenizer: Tokenizer
) -> None:
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter("\n".join(texts[:50]).splitlines()),
        model_prefix=str(tmp_path / "nfkc"),
        vocab_size=300,
        minloglevel=2,
    )
    other = load_tokenizer(str(tmp_path / "nfkc.model"))
    pieces = ["one line", "ﬁne  two"]
    write_store(tmp_path / "store", [("d", [(text, [1]) for text in pieces])], tokenizer)
    record = {"id": "r", "kind": "k", "store": "store", "segments": [1, 0], "evidence": [0]}
    record |= {"question": "Q", "answer": "A"}
    encoder = SampleEncoder(other)
    sample = encoder.encode(SampleReader(FILM).read(record, "x:1", tmp_path))
    prompt = other.encode(FILM.prompt_text(FILM.wording.message("Q", "ﬁne  two\none line")))
    assert sample.tokens.tolist() == [other.bos_id, *prompt, *other.encode("A"), other.eos_id]
    (note,) = encoder.notes
    assert "whole texts" in note


def test_truncation_of_recipes_keeps_evidence_and_question(
    tokenizer: Tokenizer, recipes: Path
) -> None:
    encoder = SampleEncoder(tokenizer, max_tokens=700)
    cut = kept = 0
    for record, sample in _pairs(recipes):
        encoded = encoder.encode(sample)
        if record["n_tokens"] <= 700:
            assert len(encoded.tokens) == record["n_tokens"]
            kept += 1
            continue
        text = tokenizer.decode(encoded.tokens[encoded.loss_mask == 0])
        store = SegmentStore(recipes.with_name("samples.jsonl.segments"))
        evidence = [store.text(record["segments"][slot]) for slot in record["evidence"]]
        positions = [text.find(segment) for segment in evidence]
        if len(encoded.tokens) <= 700:
            assert text.endswith(FILM.prompt(record["question"], "\0").split("\0")[1])
            assert min(positions) >= 0
            assert positions == sorted(positions)
            assert 0 <= encoded.evidence_position <= 1
            assert len(encoded.tokens) > 400
            cut += 1
    assert cut > 100
    assert kept > 10
    assert encoder.notes["contexts truncated"] == cut


def _pairs(path: Path) -> list[tuple[dict[str, Any], Any]]:
    records = [record for _, record in read_json_lines(path)]
    return list(zip(records, (sample for _, sample in read_samples(path, FILM)), strict=True))


@settings(max_examples=50, deadline=None)
@given(lines=st.lists(st.text("abc é", max_size=20), min_size=8, max_size=40), data=st.data())
def test_truncation_of_texts_keeps_the_lines_with_evidence(
    tokenizer: Tokenizer, lines: list[str], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(lines)))
    context = "\n".join([*lines[:place], "THE needle", "spans two", *lines[place:]])
    start = context.index("THE")
    record = {"id": "a", "kind": "k", "context": context, "question": "Q?", "answer": "A"}
    record["evidence"] = [[start, context.index("two") + 3]]
    sample = SampleReader(FILM).read(record, "x:1", Path())
    whole = SampleEncoder(tokenizer).encode(sample)
    limit = len(whole.tokens) - 5
    short = SampleEncoder(tokenizer, max_tokens=limit).encode(sample)
    if len(short.tokens) == len(whole.tokens):  # the fillers do not suffice
        assert sum(len(tokenizer.encode(line, "text")) + 1 for line in lines) < 5
        return
    assert len(short.tokens) <= limit
    text = tokenizer.decode(short.tokens[short.loss_mask == 0])
    before, after = FILM.prompt("Q?", "\0").split("\0")
    body = text.removeprefix(before).removesuffix(after)
    assert "THE needle\nspans two" in body
    assert (text.startswith(before), text.endswith(after)) == (True, True)
    middle = body.index("THE") + len("THE needle\nspans two") / 2
    assert short.evidence_position == pytest.approx(middle / len(body))


def test_a_text_without_known_evidence_is_not_truncated(tokenizer: Tokenizer) -> None:
    record = {"id": "a", "kind": "k", "context": "x\n" * 300, "question": "Q", "answer": "A"}
    sample = SampleReader(FILM).read(record, "x:1", Path())
    assert len(SampleEncoder(tokenizer, max_tokens=100).encode(sample).tokens) > 300


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"segments": [10**9]}, "is beyond the"),
        ({"n_tokens": 5}, "states n_tokens=5"),
        ({"evidence": [999]}, "beyond the segments"),
        ({"segments": []}, "'segments'"),
        ({"segments": [-1]}, "'segments'"),
        ({"store": "elsewhere"}, "does not exist"),
        ({"answer": ""}, "'answer' is empty"),
    ],
)
def test_recipes_that_do_not_fit_their_store(
    tokenizer: Tokenizer, recipes: Path, change: dict[str, Any], complaint: str
) -> None:
    record = {**json.loads(recipes.read_text().splitlines()[0]), **change}
    with pytest.raises(InputError, match=complaint):
        SampleEncoder(tokenizer).encode(SampleReader(FILM).read(record, "x:1", recipes.parent))


def test_a_store_of_another_tokenizer_is_refused(small_tokenizer: Tokenizer, recipes: Path) -> None:
    _, sample = next(iter(read_samples(recipes, FILM)))
    with pytest.raises(InputError, match="another tokenizer"):
        SampleEncoder(small_tokenizer).encode(sample)


def test_a_chat_sample_has_mistral_commons_ids(encode: Encode, tokenizer: Tokenizer) -> None:
    turns = ["What is the capital of France?", "Paris.", "  And\n\nof Spain? 日本", "Madrid."]
    roles = ["user", "assistant"] * 2
    messages = [
        {"role": role, "content": content} for role, content in zip(roles, turns, strict=True)
    ]
    sample = encode({"id": "a", "messages": messages})
    request = ChatCompletionRequest(
        messages=[
            UserMessage(content=turns[0]),
            AssistantMessage(content=turns[1]),
            UserMessage(content=turns[2]),
        ]
    )
    theirs = MistralTokenizer.v1().encode_chat_completion(request).tokens
    assert sample.tokens[: len(theirs)].tolist() == theirs
    assert sample.tokens[len(theirs) :].tolist() == [*tokenizer.encode("Madrid."), 2]
    assert _learnt(tokenizer, sample) == ["Paris.</s>", "Madrid.</s>"]
