"""Tokenising by words gives SentencePiece's very ids, for any text."""

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import load_tokenizer
from megatron_in2.tokenizers.word_cache import WordEncoder, run_pattern

TRICKY = [
    *("", " ", "  ", "\n", "\n\n ", " \n", "▁", "a▁b", " ▁ x", "a\x00b", "tab\there", "a  b   c"),
    *("<s>[INST] a </s>", "x².5", "don't “stop” …", "日本語 テキスト", "🙂🙂 e\u0301", "\u00a0 a"),
    *("toString(1234567890)", "foo_bar.baz[0]->qux", "r\r\nn", "1,234.56", "ﬁ ﷺ \u200b"),
]
_ALPHABET = st.one_of(
    st.characters(exclude_categories=("Cs",)),
    st.sampled_from(list(" \n▁\t.,()_-'\"0123456789abcdefXYZ²é…“«")),
)


def _ids(raw: bytes) -> list[int]:
    return np.frombuffer(raw, np.uint16).tolist()


@pytest.fixture(scope="module")
def encoder(tokenizer: Tokenizer) -> WordEncoder:
    return WordEncoder(tokenizer)


@pytest.fixture(scope="module")
def direct(tokenizer: Tokenizer) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))


def _assert_exact(
    encoder: WordEncoder, direct: sentencepiece.SentencePieceProcessor, text: str
) -> None:
    assert _ids(encoder.encode(text)) == direct.encode(text)
    assert _ids(encoder.encode(text, "text")) == direct.encode("\n" + text)[2:]


@pytest.mark.parametrize("text", TRICKY)
def test_tricky_texts(
    encoder: WordEncoder, direct: sentencepiece.SentencePieceProcessor, text: str
) -> None:
    _assert_exact(encoder, direct, text)


@settings(max_examples=500, deadline=None)
@given(text=st.text(_ALPHABET, max_size=60))
def test_any_text(
    encoder: WordEncoder,
    direct: sentencepiece.SentencePieceProcessor,
    tokenizer: Tokenizer,
    text: str,
) -> None:
    _assert_exact(encoder, direct, text)
    assert tokenizer.decode(_ids(encoder.encode(text))) == text.replace("▁", " ")


def test_real_prose(encoder: WordEncoder, tokenizer: Tokenizer, texts: list[str]) -> None:
    assert len(texts) > 500
    for text in texts:
        assert _ids(encoder.encode(text)) == tokenizer.encode(text)


def test_a_full_dictionary_starts_anew(tokenizer: Tokenizer, texts: list[str]) -> None:
    small = WordEncoder(tokenizer, max_characters=2000)
    for text in texts[:100]:
        assert _ids(small.encode(text)) == tokenizer.encode(text)


def test_other_bpe_models_too(small_tokenizer: Tokenizer, texts: list[str]) -> None:
    assert small_tokenizer.splits_at_spaces
    encoder = WordEncoder(small_tokenizer)
    for text in [*texts[:200], *TRICKY]:
        assert _ids(encoder.encode(text)) == small_tokenizer.encode(text)


def _train(path: str, texts: list[str], **options: object) -> Tokenizer:
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter("\n".join(texts[:200]).splitlines()),
        model_prefix=path,
        vocab_size=600,
        model_type="bpe",
        byte_fallback=True,
        remove_extra_whitespaces=False,
        minloglevel=2,
        **options,
    )
    return load_tokenizer(f"{path}.model")


def test_models_that_merge_across_words_or_normalise_are_encoded_whole(
    tmp_path: object, texts: list[str]
) -> None:
    crossing = _train(
        f"{tmp_path}/crossing",
        texts,
        split_by_whitespace=False,
        normalization_rule_name="identity",
    )
    normalising = _train(f"{tmp_path}/nfkc", texts, normalization_rule_name="nmt_nfkc")
    for model in (crossing, normalising):
        assert not model.splits_at_spaces
        encoder = model.text_encoder()
        for text in texts[:50]:
            assert _ids(encoder.encode(text)) == model.encode(text)


def test_a_model_that_merges_letters_with_marks_is_cut_at_spaces_only(
    tmp_path: object, texts: list[str]
) -> None:
    merging = _train(
        f"{tmp_path}/merging",
        texts,
        split_by_unicode_script=False,
        split_by_number=False,
        normalization_rule_name="identity",
    )
    assert merging.splits_at_spaces
    assert run_pattern(merging.merged_pieces).findall(" don't (x) 12a") != [
        " don",
        "'",
        "t",
        " (",
        "x",
        ")",
    ]
    encoder = WordEncoder(merging)
    for text in [*texts[:200], *TRICKY]:
        assert _ids(encoder.encode(text)) == merging.encode(text)
