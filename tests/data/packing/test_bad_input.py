"""Input that cannot be used: one line that names it, or a count and a reject."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from megatron_in2.errors import InputError
from tests.data.conftest import Pack, text_sample

GOOD = [text_sample(index, None, f"Question {index}?", "Answer.") for index in range(5)]
LINES = [json.dumps(record).encode() for record in GOOD]
TEXT = {"id": "x", "kind": "k", "context": None, "question": "Q", "answer": "A"}


def _line(**change: Any) -> bytes:
    record = {key: value for key, value in {**TEXT, **change}.items() if value is not ...}
    return json.dumps(record).encode()


def _chat(*turns: tuple[str, str]) -> bytes:
    messages = [{"role": role, "content": content} for role, content in turns]
    return json.dumps({"id": "x", "messages": messages}).encode()


# (the bad line, words of the complaint, the reason under which it is counted)
BAD_LINES = [
    (b'{"id": "x", "kind": ', "not JSON", "not JSON"),
    (b"[1, 2]", "expected a JSON object, found list", "not an object"),
    (b"null", "found NoneType", "not an object"),
    (b'"text"', "found str", "not an object"),
    (b"\xff\xfe{}", "not UTF-8", "not UTF-8"),
    (b'{"id": "x\x00"}', "not JSON", "not JSON"),
    (b"{" * 3, "not JSON", "not JSON"),
    (b'{"a":' * 20_000, "not JSON", "not JSON"),
    (b'{"id": "x"}', "none of the fields", "not a sample"),
    (_line(answer=...), "field 'answer' must be str, found None", "field answer"),
    (_line(answer=""), "field 'answer' is empty", "field answer"),
    (_line(answer=" \n"), "field 'answer' is empty", "field answer"),
    (_line(answer=7), "field 'answer' must be str, found 7", "field answer"),
    (_line(question=["Q"]), "field 'question' must be str", "field question"),
    (_line(context={}), "field 'context' must be str", "field context"),
    (_line(kind=...), "field 'kind'", "field kind"),
    (_line(id=float("nan")), "field 'id' must be str, found nan", "field id"),
    (_line(id=3), "field 'id' must be str, found 3", "field id"),
    (_line(answer="\ud800"), "surrogate", "field answer"),
    (_line(context="abc", evidence=[[0, 9]]), "outside the context", "field evidence"),
    (_line(context="abc", evidence=[5]), "[start, end]", "field evidence"),
    (_line(id=GOOD[0]["id"]), "earlier line", "duplicate id"),
    (_chat(("user", "Q")), "must end with an assistant turn", "field messages"),
    (_chat(("assistant", "A")), "'user' must stand", "field role"),
    (_chat(("user", "Q"), ("tool", "A")), "'assistant' must stand", "field role"),
    (b'{"id": "x", "messages": [3]}', "list of objects", "field messages"),
    (b'{"id": "x", "parts": [{"text": "a", "learn": false}]}', "nothing", "nothing learnt"),
    (b'{"id": "x", "parts": [{"text": "a", "learn": 1}]}', "'learn' must be bool", "field learn"),
]
_IDS = [f"{index}-{reason}" for index, (_, _, reason) in enumerate(BAD_LINES)]


@pytest.mark.parametrize(("line", "complaint", "reason"), BAD_LINES, ids=_IDS)
def test_a_bad_line_stops_or_is_skipped(
    tmp_path: Path, pack: Pack, line: bytes, complaint: str, reason: str
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join([*LINES[:3], line, *LINES[3:]]) + b"\n")
    with pytest.raises(InputError) as raised:
        pack(path, seq_length=256)
    assert str(raised.value).startswith(f"{path}:4: ")
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)
    data = pack(path, seq_length=256, on_error="skip")
    assert data.manifest.samples == 5
    assert data.manifest.rejected == {reason: 1}
    (reject,) = (tmp_path / "packed_rejects.jsonl").read_text().splitlines()
    values = json.loads(reject)
    assert values["where"] == f"{path}:4"
    assert values["reason"] == reason
    assert complaint in values["message"]


def test_a_missing_store_stops_even_where_records_are_skipped(
    tmp_path: Path, pack: Pack, recipes: Path
) -> None:
    path = tmp_path / "moved.jsonl"
    path.write_bytes(recipes.read_bytes())
    with pytest.raises(InputError, match=r"moved.jsonl:1: segment store .* does not exist"):
        pack(path, on_error="skip")


def test_an_answer_that_a_tokenizer_drops_is_refused(tmp_path: Path, texts: list[str]) -> None:
    import sentencepiece

    from megatron_in2.data.packing.config import PreprocessConfig
    from megatron_in2.data.packing.preprocess import preprocess

    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter("\n".join(texts[:50]).splitlines()),
        model_prefix=str(tmp_path / "nfkc"),
        vocab_size=300,
        minloglevel=2,
    )
    path = tmp_path / "x.jsonl"
    path.write_bytes(_line(answer="\u200b\x01"))
    with pytest.raises(InputError, match=r"x.jsonl:1: .*has no tokens"):
        preprocess(PreprocessConfig([path], tmp_path / "p", f"{tmp_path}/nfkc.model", 256))


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_files_without_samples(tmp_path: Path, pack: Pack, content: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"is empty|no sample"):
        pack(path)


def test_files_that_are_none(tmp_path: Path, pack: Pack) -> None:
    with pytest.raises(InputError, match="is a directory"):
        pack(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        pack(tmp_path / "absent.jsonl")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match="not readable as parquet"):
        pack(tmp_path / "x.parquet")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "no archive"])
def test_a_corrupt_archive_is_named(tmp_path: Path, pack: Pack, suffix: str, damage: str) -> None:
    content = b"\n".join(_line(id=f"x{i}", question=f"{i * 7919} Q") for i in range(3000))
    if suffix == ".gz":
        packed = bytearray(gzip.compress(content))
    else:
        packed = bytearray(pyarrow.compress(content, codec="zstd", asbytes=True))
    path = tmp_path / f"x.jsonl{suffix}"
    if damage == "flipped":
        packed[len(packed) // 2] ^= 0xFF
    path.write_bytes({"cut": packed[:-30], "flipped": packed, "no archive": content}[damage])
    with pytest.raises(InputError, match=r"x.jsonl.*: "):
        pack(path)


def test_byte_order_mark_blank_lines_and_nul_are_taken(tmp_path: Path, pack: Pack) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + LINES[0] + b"\r\n\n" + _line(question="a\x00b") + b"\n")
    assert pack(path, seq_length=256).manifest.samples == 2


def test_control_words_in_content_never_become_control_ids(tmp_path: Path, pack: Pack) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(_line(question="<s> [INST] </s> <unk>", answer="</s><s>"))
    data = pack(path, seq_length=256)
    tokens, mask = data[0].tokens[: data[0].records["length"][0]], data[0].loss_mask
    assert (tokens == 1).sum() == (tokens == 2).sum() == 1
    assert 0 not in tokens
    assert mask.sum() > 4
    assert data.manifest.notes == {"samples with [INST] in a user's text": 1}


def test_all_formats_give_the_same_dataset(tmp_path: Path, pack: Pack) -> None:
    content = b"\n".join(LINES)
    (tmp_path / "plain.jsonl").write_bytes(content)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(content))
    zstd = pyarrow.compress(content, codec="zstd", asbytes=True)
    (tmp_path / "a.jsonl.zst").write_bytes(zstd)
    table = pyarrow.Table.from_pylist(GOOD)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    names = ["plain.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"]
    files = [
        pack(tmp_path / name, name=f"from-{name}", seq_length=256).manifest.files for name in names
    ]
    assert all(each == files[0] for each in files)


def test_a_bad_row_of_parquet_is_named(tmp_path: Path, pack: Pack) -> None:
    rows = [*GOOD, {**TEXT, "answer": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a.parquet:6: field 'answer'"):
        pack(tmp_path / "a.parquet", seq_length=256)
    data = pack(tmp_path / "a.parquet", seq_length=256, on_error="skip")
    assert data.manifest.rejected == {"field answer": 1}
