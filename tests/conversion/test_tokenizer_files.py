"""An export's tokenizer and chat template give the ids that training gave."""

import json
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from megatron_in2.conversion.tokenizer_files import write_tokenizer_files
from megatron_in2.data.packing.encoding.encode import SampleEncoder
from megatron_in2.data.packing.encoding.samples import read_samples
from megatron_in2.templates.film import FILM
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import load_tokenizer
from tests.conversion.conftest import V3

Messages = list[dict[str, str]]

# Text without what the design calls control pieces, which a template cannot tell from real ones.
TEXTS = st.text(max_size=60).filter(lambda text: text.strip() and "<" not in text)


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


CONVERSATIONS: list[Messages] = [
    [user("What is the capital of France?"), assistant("Paris.")],
    [user("One\n\ntwo?"), assistant("  Three\n"), user(" And four? "), assistant("日本 ok 🙂")],
    [
        {"role": "system", "content": "Answer in one word."},
        *(user("What?"), assistant("This."), user("def f(x):\n\treturn x"), assistant("\tyes")),
    ],
    [user(FILM.with_context.removeprefix("[INST] ").removesuffix(" [/INST]")), assistant("A")],
]


@pytest.fixture(scope="module", params=["v1", "v3", "small"])
def ours(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "v3":
        return load_tokenizer(str(V3))
    tokenizer: Tokenizer = request.getfixturevalue(
        {"v1": "tokenizer", "small": "small_tokenizer"}[request.param]
    )
    return tokenizer


@pytest.fixture(scope="module")
def exported(ours: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("export")
    write_tokenizer_files(folder, ours, FILM, max_tokens=32768)
    (folder / "config.json").write_text('{"model_type": "mistral"}')
    return AutoTokenizer.from_pretrained(folder)


def trained_ids(folder: Path, ours: Tokenizer, messages: Messages) -> list[int]:
    """The ids that preprocessing gives to a chat sample."""
    line = json.dumps({"id": "a", "kind": "instruction", "messages": messages})
    (folder / "sample.jsonl").write_text(line + "\n", encoding="utf-8")
    ((_, sample),) = read_samples(folder / "sample.jsonl", FILM)
    return SampleEncoder(ours).encode(sample).tokens.tolist()


def template_ids(exported: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    return list(exported.apply_chat_template(messages, tokenize=True, return_dict=False))


@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["one", "two turns", "system", "film"])
def test_chat_template_gives_the_trained_ids(
    tmp_path: Path, ours: Tokenizer, exported: PreTrainedTokenizerBase, messages: Messages
) -> None:
    assert template_ids(exported, messages) == trained_ids(tmp_path, ours, messages)


@settings(max_examples=80, deadline=None)
@given(texts=st.lists(TEXTS, min_size=2, max_size=4))
@example(texts=["a", " b"])
@example(texts=["\n", "\n\n x"])
@example(texts=["[INST] a [/INST]", "]"])
def test_any_text_gives_the_trained_ids(
    tmp_path_factory: pytest.TempPathFactory,
    ours: Tokenizer,
    exported: PreTrainedTokenizerBase,
    texts: list[str],
) -> None:
    if not all(text.strip() for text in texts):
        texts = [f"{text}x" for text in texts]
    speakers = [user, assistant]
    messages = [speakers[i % 2](text) for i, text in enumerate(texts[: len(texts) // 2 * 2])]
    folder = tmp_path_factory.mktemp("any")
    assert template_ids(exported, messages) == trained_ids(folder, ours, messages)


def test_real_prose_gives_sentencepieces_ids(
    ours: Tokenizer, exported: PreTrainedTokenizerBase, texts: list[str]
) -> None:
    for text in texts[:60]:
        assert exported(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
        assert exported(text)["input_ids"] == [ours.bos_id, *ours.encode(text)]


def test_prompt_for_generation_ends_before_the_answer(
    ours: Tokenizer, exported: PreTrainedTokenizerBase
) -> None:
    ids = exported.apply_chat_template(
        [user("Why?")], tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert list(ids) == [ours.bos_id, *ours.encode("[INST] Why? [/INST]")]


def test_literal_ids_of_the_real_model(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """``▁[`` after the begin-of-sequence, not the bare ``[`` of a rebuilt Llama tokenizer."""
    write_tokenizer_files(tmp_path, tokenizer, FILM, 100)
    exported = AutoTokenizer.from_pretrained(tmp_path)
    ids = template_ids(exported, [user("Hi"), assistant("Paris")])
    pieces = ["<s>", "▁[", "INST", "]", "▁Hi", "▁[", "/", "INST", "]", "▁Paris", "</s>"]
    assert exported.convert_ids_to_tokens(ids) == pieces
    assert exported.decode(ids, skip_special_tokens=True) == "[INST] Hi [/INST] Paris"


def test_roles_must_alternate(exported: PreTrainedTokenizerBase) -> None:
    with pytest.raises(TemplateError, match="alternate"):
        template_ids(exported, [user("a"), user("b")])


def test_unigram_model_gets_no_inexact_twin(tmp_path: Path, texts: list[str]) -> None:
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(texts[:100]),
        model_prefix=str(tmp_path / "unigram"),
        vocab_size=300,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (tmp_path / "out").mkdir()
    unigram = load_tokenizer(str(tmp_path / "unigram.model"))
    write_tokenizer_files(tmp_path / "out", unigram, FILM, 100)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tokenizer.model"]
