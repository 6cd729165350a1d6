"""A tokenizer.json gives its library's ids, by every path, and its lines join exactly."""

import json
import random
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tokenizers
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from megatron_in2.conversion.tokenizer_files import write_tokenizer_files
from megatron_in2.errors import InputError
from megatron_in2.templates.film import FILM
from megatron_in2.tokenizers.base import TextEncoder, Tokenizer, control_id
from megatron_in2.tokenizers.huggingface import RESERVED_MARK
from megatron_in2.tokenizers.load import load_tokenizer
from megatron_in2.tokenizers.pretokens import read_rule
from tests.bases import LLAMA_3_RULE, LLAMA_3_TOKENS, QWEN_RULE, TEKKEN, byte_level, write_base

DIFFICULT = [
    *("", " ", "  ", "\n", "\n\n ", " \n x", "a\x00b", "tab\there", "a  b   c\t\n \t d"),
    *("\r\n\r x", "don't DON'T we'Re it'ſ l'll", "日本語 テキスト中文", "🙂🙂 e\u0301 é"),
    *("\u00a0 a\u2003b\u200b", "1234567890 ①½ ٣٤٥", "x².5 µK Kelvin", "toString(12)->foo_bar[0]"),
    *("//a/b\n// c\n", ".\n/x", "ﬁ ﷺ ŉ ǆ ǅ", "\u0301start", "\u037e ; \u1fef `"),
    *("\U00010400\U0001e900 𝔘𝔫𝔦", "\u2028a\u2029\rb", "\x1c\x1d \x85 x", "\ufdd0"),
    *("<|eot_id|> <|im_end|> <s> [INST]", "<think>a</think> <tool_call>"),
]
ALPHABET = st.one_of(
    st.characters(exclude_categories=("Cs",)),
    st.sampled_from(list(" \n\r\t.,;/()_-'\"0123456789abcdefXYZsStTſK²é…“«\u0301\u00a0\u2028中")),
)
TEXTS = st.text(ALPHABET, max_size=60)
NAMES = ["llama3", "qwen", "tekken"]


def library(folder: Path) -> tokenizers.Tokenizer:
    """The reference: the library itself, special tokens read as text."""
    loaded = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    loaded.encode_special_tokens = True
    return loaded


def library_ids(loaded: tokenizers.Tokenizer, text: str) -> list[int]:
    return loaded.encode(text, add_special_tokens=False).ids


def as_ids(encoder: TextEncoder, text: str) -> list[int]:
    return np.frombuffer(encoder.encode(text), encoder.dtype).tolist()


@pytest.fixture(scope="module", params=NAMES)
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.fixture(scope="module")
def ours(folder: Path) -> Tokenizer:
    return load_tokenizer(str(folder))


@pytest.fixture(scope="module")
def encoder(ours: Tokenizer) -> TextEncoder:
    return ours.text_encoder()


@pytest.fixture(scope="module")
def reference(folder: Path) -> tokenizers.Tokenizer:
    return library(folder)


@pytest.mark.parametrize("text", DIFFICULT)
def test_difficult_texts(
    ours: Tokenizer, encoder: TextEncoder, reference: tokenizers.Tokenizer, text: str
) -> None:
    wanted = library_ids(reference, text)
    assert ours.encode(text) == wanted
    assert ours.encode(text, "control") == ours.encode(text, "text") == wanted
    assert as_ids(encoder, text) == wanted


@settings(max_examples=400, deadline=None)
@given(text=TEXTS)
def test_any_text(
    ours: Tokenizer, encoder: TextEncoder, reference: tokenizers.Tokenizer, text: str
) -> None:
    wanted = library_ids(reference, text)
    assert as_ids(encoder, text) == ours.encode(text) == wanted


def test_real_prose(
    ours: Tokenizer, encoder: TextEncoder, reference: tokenizers.Tokenizer, texts: list[str]
) -> None:
    for text in texts[:300]:
        assert as_ids(encoder, text) == library_ids(reference, text)
        assert ours.decode(ours.encode(text)) == text


def test_every_character_is_cut_as_the_library_cuts_it(
    encoder: TextEncoder, reference: tokenizers.Tokenizer
) -> None:
    """Between a letter, a digit, a mark and a space: a wrong class would move a border."""
    chance = random.Random(0)
    codes = [*range(0x80, 0x3000), *chance.sample(range(0x3000, 0x40000), 3000), 0x10FFFF]
    characters = [chr(code) for code in codes if not 0xD800 <= code < 0xE000]
    for start in range(0, len(characters), 50):
        text = "".join(
            f"a{each}b1{each}2.{each}! {each} " for each in characters[start : start + 50]
        )
        assert as_ids(encoder, text) == library_ids(reference, text), text


def test_tekken_is_mistral_commons(tekken: Path, texts: list[str]) -> None:
    """The independent reference: tiktoken over Mistral's own file."""
    theirs, ours = Tekkenizer.from_file(TEKKEN), load_tokenizer(str(tekken))
    encoder = ours.text_encoder()
    for text in [*texts[:200], *DIFFICULT]:
        assert as_ids(encoder, text) == theirs.encode(text, bos=False, eos=False)
    assert (ours.vocab_size, ours.bos_id, ours.eos_id) == (131_072, 1, 2)
    assert encoder.dtype == np.int32


def test_no_text_produces_a_control_id(ours: Tokenizer, encoder: TextEncoder) -> None:
    text = " x ".join([*ours.control_ids, "".join(ours.control_ids)])
    assert not set(ours.control_ids.values()) & set(as_ids(encoder, text))
    assert not set(ours.control_ids.values()) & set(ours.encode(text, "control"))


def test_words_that_are_added_but_not_special_are_vocabulary(qwen: Path) -> None:
    ours = load_tokenizer(str(qwen))
    assert "<think>" not in ours.control_ids
    think = library(qwen).token_to_id("<think>")
    assert ours.encode("<think>") == as_ids(ours.text_encoder(), "<think>") == [think]


def test_special_tokens_by_role(llama3: Path, qwen: Path) -> None:
    llama, other = load_tokenizer(str(llama3)), load_tokenizer(str(qwen))
    assert llama.piece(llama.bos_id or 0) == "<|begin_of_text|>"
    assert control_id(llama, "eos_token") == llama.control_ids["<|eot_id|>"]
    assert llama.pad_id == llama.eos_id
    assert other.bos_id is control_id(other, "bos_token") is None
    assert other.piece(other.pad_id) == "<|endoftext|>"


# Joining


def joined_ids(ours: Tokenizer, pieces: list[str]) -> list[int]:
    between = list(ours.line_end)
    ids: list[int] = []
    for index, line in enumerate(ours.encode_lines(pieces)):
        ids += (between if index else []) + line
    return ids


@settings(max_examples=400, deadline=None)
@given(pieces=st.lists(TEXTS.filter(lambda text: "\n" not in text), min_size=2, max_size=5))
@example(pieces=["a.", "/b"])
@example(pieces=["a.", " \t/b"])
@example(pieces=["a", "\u0301b"])
@example(pieces=["a ", "\rb"])
@example(pieces=["a ", "\u2028\rb"])
def test_lines_join_exactly_where_it_is_said(
    ours: Tokenizer, reference: tokenizers.Tokenizer, pieces: list[str]
) -> None:
    safe = [pieces[0], *(each for each in pieces[1:] if ours.joins_behind_newline(each))]
    assert joined_ids(ours, safe) == library_ids(reference, "".join(f"{p}\n" for p in safe))


def test_borders_that_do_not_join_are_known(ours: Tokenizer, folder: Path) -> None:
    assert ours.joins_exactly
    assert ours.line_end == ()
    joining = ["word", "  spaces", "\ttab", "'s", "1", "\u0301"]
    refused = ["", "\n", "\nx", "\r", "  \rx", " "]
    assert [ours.joins_behind_newline(text) for text in joining] == [True] * len(joining)
    assert [ours.joins_behind_newline(text) for text in refused] == [False] * len(refused)
    assert ours.joins_behind_newline("/x") == (folder.name != "tekken")


def test_a_border_that_is_refused_would_be_wrong(tekken: Path) -> None:
    """The negative control: the pieces of the refused borders really do not join."""
    ours, reference = load_tokenizer(str(tekken)), library(tekken)
    for pieces in (["a.", "/b"], ["a", "\nb"]):
        assert joined_ids(ours, pieces) != library_ids(reference, "".join(f"{p}\n" for p in pieces))


def test_an_unknown_rule_is_not_trusted(tmp_path: Path, texts: list[str]) -> None:
    assert read_rule(LLAMA_3_RULE) is not None
    assert read_rule(r"\w+|\s+") is None
    assert read_rule(QWEN_RULE.replace(r"\s*[\r\n]+|", "")).joins_lines is False  # type: ignore[union-attr]
    tokenizer = byte_level(r"\w+|[^\w\s]+|\s+", texts[:50], 400)
    tokenizer.add_special_tokens(["</s>"])
    folder = write_base(tmp_path / "odd", tokenizer, {"eos_token": "</s>"})
    ours = load_tokenizer(str(folder))
    assert not ours.joins_exactly
    assert not ours.joins_behind_newline("word")
    for text in DIFFICULT:
        assert as_ids(ours.text_encoder(), text) == library_ids(library(folder), text)


# SentencePiece's kind of tokenizer.json


class Spaced(NamedTuple):
    """A tokenizer, its fast encoder, and its library with special tokens as text and as tokens."""

    ours: Tokenizer
    encoder: TextEncoder
    reference: tokenizers.Tokenizer
    marking: tokenizers.Tokenizer


@pytest.fixture(scope="module", params=["prepend", "metaspace"])
def spaced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Spaced:
    """Mistral v1's pieces as a tokenizer.json, with both ways to write the dummy prefix."""
    folder = tmp_path_factory.mktemp("spaced") / request.param
    folder.mkdir()
    write_tokenizer_files(folder, load_tokenizer("mistral-v1"), FILM, 100)
    if request.param == "metaspace":
        path = folder / "tokenizer.json"
        values = json.loads(path.read_text())
        values["normalizer"] = None
        values["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁",
                                   "prepend_scheme": "first", "split": False}  # fmt: skip
        path.write_text(json.dumps(values))
    ours, marking = load_tokenizer(str(folder)), library(folder)
    marking.encode_special_tokens = False
    return Spaced(ours, ours.text_encoder(), library(folder), marking)


def test_a_text_with_the_reserved_mark_is_refused(spaced: Spaced) -> None:
    with pytest.raises(InputError, match="remove these characters"):
        spaced.ours.encode(f"x{RESERVED_MARK}", "control")


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
@example(text="▁x")
@example(text="  two")
@example(text="")
def test_spaced_texts(spaced: Spaced, text: str) -> None:
    assume(RESERVED_MARK not in text)  # hypothesis tries the texts of the modules under test, too
    ours, encoder, reference, marking = spaced
    assert as_ids(encoder, text) == ours.encode(text) == library_ids(reference, text)
    # What the library gives behind a control token: a run of its own, or a run that goes on.
    behind = library_ids(marking, f"<s>{text}") if "<" not in text else None
    for follows, wanted in (("control", behind), ("text", library_ids(reference, f"\n{text}"))):
        if wanted is not None:
            skipped = 1 if follows == "control" else 2
            assert ours.encode(text, follows) == wanted[skipped:]
            raw = np.frombuffer(encoder.encode(text, follows), encoder.dtype)
            assert raw.tolist() == wanted[skipped:]


def test_spaced_lines_join_by_a_newline_id(spaced: Spaced, texts: list[str]) -> None:
    ours, _, reference, _ = spaced
    assert ours.line_end == (13,)
    lines = [line for text in texts[:40] for line in text.split("\n")] + ["/x", "  y", "\rz"]
    assert len(lines) > 300
    start = library_ids(reference, "Context:\n")
    for at in range(0, len(lines) - 5, len(lines) // 60):
        chosen = lines[at : at + 5]
        whole = library_ids(reference, "Context:\n" + "\n".join(chosen))
        assert start + joined_ids(ours, chosen) == whole


# Loading


def test_a_directory_gives_tokenizer_json_unless_the_other_is_wanted(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    write_tokenizer_files(tmp_path, tokenizer, FILM, 100)
    assert load_tokenizer(str(tmp_path)).path.name == "tokenizer.json"
    wanted = load_tokenizer(str(tmp_path), tokenizer.sha256)
    assert (wanted.path.name, wanted.sha256) == ("tokenizer.model", tokenizer.sha256)
    assert set(wanted.files) == {"tokenizer.model", "tokenizer.json", "tokenizer_config.json"}
    (tmp_path / "tokenizer.json").unlink()
    assert load_tokenizer(str(tmp_path)).path.name == "tokenizer.model"


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("tokenizer.json", "{}", "is not a tokenizer.json of the tokenizers library"),
        ("tokenizer.json", '{"model": {"type": "x"}}', "is not readable by the tokenizers library"),
        ("tokenizer_config.json", "{}", "names no eos_token that tokenizer.json holds"),
        ("tokenizer_config.json", '{"eos_token": "<other>"}', "names no eos_token"),
        ("tokenizer_config.json", "[]", "holds no JSON object"),
        (
            "tokenizer_config.json",
            '{"eos_token": "<|eot_id|>", "added_tokens_decoder": {"5000": {"content": "<new>"}}}',
            "adds '<new>' as id 5000, which tokenizer.json lacks",
        ),
    ],
)
def test_unusable_directories(
    llama3: Path, tmp_path: Path, file: str, content: str, complaint: str
) -> None:
    shutil.copytree(llama3, tmp_path / "base")
    (tmp_path / "base" / file).write_text(content)
    with pytest.raises(InputError, match=complaint):
        load_tokenizer(str(tmp_path / "base"))


def test_a_vocabulary_whose_control_tokens_text_can_reach_is_refused(
    llama3: Path, tmp_path: Path
) -> None:
    shutil.copytree(llama3, tmp_path / "base")
    path = tmp_path / "base" / "tokenizer.json"
    values = json.loads(path.read_text())
    words = filter(str.isascii, values["model"]["vocab"])
    word = next(each for each in words if each.isalpha() and len(each) > 2)
    values["added_tokens"].append(
        {"id": values["model"]["vocab"][word], "content": word, "special": True, "lstrip": False,
         "rstrip": False, "single_word": False, "normalized": False}
    )  # fmt: skip
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=f"a text that holds '{word}' gets the id of that control"):
        load_tokenizer(str(tmp_path / "base"))


def test_all_tokens_of_the_base_are_control(llama3: Path) -> None:
    assert tuple(load_tokenizer(str(llama3)).control_ids) == LLAMA_3_TOKENS
