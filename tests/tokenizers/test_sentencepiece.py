"""Encoding against SentencePiece and mistral-common, and exact joining."""

import json
import random
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_common.protocol.instruct.messages import AssistantMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from megatron_in2.errors import InputError
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import load_tokenizer


def test_it_is_the_real_mistral_model(tokenizer: Tokenizer) -> None:
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (32000, 1, 2)
    assert tokenizer.newline_id == 13
    assert tokenizer.joins_exactly


def test_token_rule_is_mistral_commons(tokenizer: Tokenizer) -> None:
    turns = [
        UserMessage(content="What is the capital of France?"),
        AssistantMessage(content="Paris."),
        UserMessage(content="  And\n\nof Spain?"),
        AssistantMessage(content="Madrid, 日本 ok"),
    ]
    theirs = MistralTokenizer.v1().encode_chat_completion(ChatCompletionRequest(messages=turns[:3]))
    ours = [
        tokenizer.bos_id,
        *tokenizer.encode("[INST] What is the capital of France? [/INST]"),
        *tokenizer.encode("Paris."),
        tokenizer.eos_id,
        *tokenizer.encode("[INST]   And\n\nof Spain? [/INST]"),
    ]
    assert ours == theirs.tokens


def test_control_pieces_in_text_stay_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a <s> b </s> c <unk>")
    assert not {0, tokenizer.bos_id, tokenizer.eos_id} & set(ids)
    assert tokenizer.decode(ids) == "a <s> b </s> c <unk>"


@settings(max_examples=300, deadline=None)
@given(pieces=st.lists(st.text(max_size=40), min_size=1, max_size=6))
def test_joining_is_exact_for_any_text(tokenizer: Tokenizer, pieces: list[str]) -> None:
    direct = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    joined = list(tokenizer.encode("Context:\n"))
    for index, piece in enumerate(pieces):
        joined += [tokenizer.newline_id] if index else []
        joined += tokenizer.encode(piece, "text")
    assert joined == direct.encode("Context:\n" + "\n".join(pieces))


def test_joining_is_exact_for_real_pieces(tokenizer: Tokenizer, pieces: Path) -> None:
    lines = (pieces / "code_functions.jsonl").read_text().splitlines()
    functions = [json.loads(line)["function_define"] for line in lines[:3000]]
    chance = random.Random(0)
    for _ in range(300):
        chosen = chance.sample(functions, 5)
        ids = tokenizer.encode(chosen[0])
        for piece in chosen[1:]:
            ids = [*ids, tokenizer.newline_id, *tokenizer.encode(piece, "text")]
        assert ids == tokenizer.encode("\n".join(chosen))


def test_a_tokenizer_that_cannot_join_is_told(tmp_path: Path, texts: list[str]) -> None:
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter("\n".join(texts[:50]).splitlines()),
        model_prefix=str(tmp_path / "nfkc"),
        vocab_size=300,
        minloglevel=2,
    )
    assert not load_tokenizer(str(tmp_path / "nfkc.model")).joins_exactly


@pytest.mark.parametrize("name", ["absent.model", "."])
def test_what_is_no_tokenizer_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tokenizer"):
        load_tokenizer(str(tmp_path / name))


def test_a_broken_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.model").write_bytes(b"not a model")
    with pytest.raises(InputError, match="not a SentencePiece model"):
        load_tokenizer(str(tmp_path / "broken.model"))
