"""Input that cannot be used: one line that names it, or a count and a reject."""

import gzip
import json
import shutil
import subprocess
import sys
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
    (_chat(("assistant", "A")), "'user' is expected", "field role"),
    (_chat(("user", "Q"), ("tool", "A")), "'assistant' is expected", "field role"),
    (b'{"id": "x", "messages": [3]}', "list of objects", "field messages"),
    (b'{"id": "x", "parts": [{"text": "a", "learn": false}]}', "nothing", "nothing trained on"),
    (b'{"id": "x", "parts": [{"text": "a", "learn": 1}]}', "'learn' must be bool", "field learn"),
    (_line(kind="pad"), "'pad' is reserved", "field kind"),
    (_line(context=..., contxt="Paris."), "'contxt' looks like 'context'", "unknown field"),
    (_line(evidense=[[0, 1]]), "'evidense' looks like 'evidence'", "unknown field"),
    (
        b'{"id": "x", "messages": [{"role": "user", "content": "Q"}, '
        b'{"role": "assistant", "content": "A", "trian": false}]}',
        "'trian' looks like 'train'",
        "unknown field",
    ),
    (
        b'{"id": "x", "messages": [{"role": "user", "content": "Q"}, '
        b'{"role": "assistant", "content": "A", "attempt": "B"}]}',
        "'attempt' belongs beside 'messages'",
        "field attempt",
    ),
    (
        b'{"id": "x", "parts": [{"text": "Q", "learn": false}, '
        b'{"text": "A", "learn": true, "attempt": "B"}]}',
        "'attempt' belongs beside 'parts'",
        "field attempt",
    ),
    (_line(attempt="B"), "is not for design answer", "field attempt"),
    (_line(id="\ud800"), "surrogate", "field id"),
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


def test_a_segment_number_beyond_all_integers(tmp_path: Path, pack: Pack, recipes: Path) -> None:
    """JSON's integers have no end; numpy's have."""
    first = json.loads(recipes.read_text().splitlines()[0])
    first |= {"segments": [2**70, *first["segments"][1:]], "store": str(_store_of(recipes))}
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(first) + "\n" + LINES[0].decode() + "\n")
    with pytest.raises(InputError, match=r"x.jsonl:1: segment 1180591620717411303424 is beyond"):
        pack(path)
    data = pack(path, on_error="skip")
    assert data.manifest.rejected == {"another segment store": 1}


def _store_of(recipes: Path) -> Path:
    return recipes.with_name("samples.jsonl.segments")


def test_a_damaged_store_stops_before_anything_is_packed(
    tmp_path: Path, pack: Pack, recipes: Path
) -> None:
    folder = shutil.copytree(recipes.parent, tmp_path / "copy")
    tokens = folder / "samples.jsonl.segments" / "tokens.bin"
    content = bytearray(tokens.read_bytes())
    content[4] ^= 1
    tokens.write_bytes(content)
    with pytest.raises(InputError, match=r"segments is damaged: tokens.bin"):
        pack(folder / "samples.jsonl", on_error="skip")
    assert not list(tmp_path.glob("packed*"))


def test_more_kinds_than_a_byte_can_name(tmp_path: Path, pack: Pack) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join(_line(id=f"x{i}", kind=f"kind {i}") for i in range(257)))
    with pytest.raises(InputError, match=r"x.jsonl:256: .*'kind 255' is one more than the 255"):
        pack(path, seq_length=256)
    data = pack(path, seq_length=256, on_error="skip")
    assert data.manifest.rejected == {"too many kinds": 2}
    assert len(data.manifest.kinds) == 256
    assert {data.manifest.kinds[code] for code in data[0].records["kind"]} <= set(
        data.manifest.kinds
    )


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_line_without_end_is_not_held(tmp_path: Path, pack: Pack, suffix: str) -> None:
    long = b'{"id": "' + b"x" * 5_000_000 + b'"}'
    content = b"\n".join([LINES[0], long, LINES[1]])
    path = tmp_path / f"x.jsonl{suffix}"
    if suffix == ".gz":
        content = gzip.compress(content)
    elif suffix == ".zst":
        content = pyarrow.compress(content, codec="zstd", asbytes=True)
    path.write_bytes(content)
    options: dict[str, Any] = {"seq_length": 256, "max_line_bytes": 2_000_000}
    with pytest.raises(InputError, match=r"x.jsonl.*:2: a line of 5,000,011 bytes, more than"):
        pack(path, **options)
    data = pack(path, **options, on_error="skip")
    assert data.manifest.samples == 2
    assert data.manifest.rejected == {"line too long": 1}
    (reject,) = (tmp_path / "packed_rejects.jsonl").read_text().splitlines()
    assert json.loads(reject)["record"].startswith('{"id": "xxx')
    assert len(reject) < 1000


def test_a_huge_line_of_an_archive_takes_little_memory(tmp_path: Path) -> None:
    """A small archive may hold a line that no memory holds."""
    path = tmp_path / "x.jsonl.zst"
    with pyarrow.CompressedOutputStream(str(path), "zstd") as stream:
        for _ in range(600):
            stream.write(b"x" * (1 << 20))
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from megatron_in2.errors import InputError\n"
        "from megatron_in2.data.packing.encoding.inputs import read_chunks\n"
        "from megatron_in2.shards import Shard\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "(chunk,) = read_chunks([Path(sys.argv[1])], Shard(), max_line_bytes=50_000_000)\n"
        "print(chunk.records[0].size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    size, kilobytes = map(int, result.stdout.split())
    assert size == 600 << 20
    assert kilobytes < 150_000


def test_a_text_that_cannot_fit_is_not_encoded(
    tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokenising a text of 200 MB takes gigabytes, only to find that it is too long."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join([_line(context="word " * 100_000), *LINES]))
    with pytest.raises(InputError, match=r"x.jsonl:1: sample 'x' has at least \d+ tokens"):
        pack(path, seq_length=256)
    data = pack(path, seq_length=256, overlong="drop")
    assert data.manifest.dropped == {"overlong": 1}


def test_fields_that_nobody_reads_are_counted(tmp_path: Path, pack: Pack) -> None:
    path = tmp_path / "x.jsonl"
    extra = [_line(id=f"x{i}", answers=["A"], source="web", meta=None) for i in range(3)]
    many = [_line(id=f"y{i}", **{f"field {i}": 1}) for i in range(60)]
    path.write_bytes(b"\n".join([*extra, *many, *LINES]))
    notes = pack(path, seq_length=256).manifest.notes
    assert notes["samples with an unknown field 'source'"] == 3
    assert notes["samples with an unknown field 'answers'"] == 3  # beside an 'answer' no mistake
    assert not any("meta" in note for note in notes)
    assert notes["samples with an unknown field of other names"] == 12
    assert len(notes) == 51


def test_names_that_would_overwrite_each_other(tmp_path: Path, pack: Pack) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join(LINES))
    with pytest.raises(InputError, match="may not end in _loss_mask"):
        pack(path, name="packed_loss_mask", seq_length=256)


def test_a_validation_split_of_another_run_is_named(tmp_path: Path, pack: Pack) -> None:
    """Its samples are in the new training split too."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join(_line(id=f"x{i}") for i in range(20)))
    pack(path, seq_length=256, validation_fraction=0.3)
    before = {item.name: item.read_bytes() for item in tmp_path.iterdir()}
    with pytest.raises(InputError, match="packed_valid is the validation split of another run"):
        pack(path, seq_length=256, overwrite=True)
    assert {item.name: item.read_bytes() for item in tmp_path.iterdir()} == before


def test_partial_answers_and_plain_ones_in_one_file(tmp_path: Path, pack: Pack) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join([_line(attempt="No."), *LINES]))
    data = pack(path, seq_length=256, design="partial-answer-masking")
    assert data.manifest.samples == 6
    assert data.manifest.notes == {
        "samples without an attempt: their whole answer is trained on": 5
    }
    for design in ("answer", "prompt-erasing", "all-assistant-turns"):
        with pytest.raises(InputError, match=rf"x.jsonl:1: .* not for design {design}"):
            pack(path, name=design, seq_length=256, design=design)


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
