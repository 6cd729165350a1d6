"""A segment store is trusted with nothing: its files are checked before an id of it is packed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megatron_in2.errors import InputError
from megatron_in2.segment_store import SegmentStore, write_store
from megatron_in2.tokenizers.base import Tokenizer

TEXTS = ["Paris is the capital of France.", "Rome is old.", "Bern is neither."]


@pytest.fixture(scope="module")
def written(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "segments"
    segments = list(zip(TEXTS, tokenizer.encode_lines(TEXTS), strict=True))
    write_store(path, [("a", segments[:2]), ("b", segments[2:])], tokenizer)
    return path


@pytest.fixture
def store(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(written, tmp_path / "segments")


def test_a_sound_store_passes(store: Path, tokenizer: Tokenizer) -> None:
    opened = SegmentStore(store)
    opened.require_sound(tokenizer)
    joined = np.frombuffer(opened.join_bytes(np.array([0, 2]), tokenizer.line_end), np.uint16)
    assert tokenizer.decode(joined.tolist()) == "Paris is the capital of France.\nBern is neither."


def _change_manifest(**values: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        manifest = json.loads((path / "store.json").read_text())
        kept = {key: value for key, value in {**manifest, **values}.items() if value is not ...}
        (path / "store.json").write_text(json.dumps(kept))

    return change


def _change_array(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        np.save(path / name, change(np.load(path / name)))

    return write


def _flip(path: Path) -> None:
    content = bytearray((path / "tokens.bin").read_bytes())
    content[4] ^= 1
    (path / "tokens.bin").write_bytes(content)


def _list_manifest(path: Path) -> None:
    (path / "store.json").write_text("[]")


def _swapped(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[1], values[2] = values[2], values[1]
    return values


# (what happens to the store, words of the complaint)
DAMAGE = {
    "a flipped bit": (_flip, "tokens.bin"),
    "a list for a manifest": (_list_manifest, "store.json"),
    "no tokenizer hash": (_change_manifest(tokenizer_sha256=...), "tokenizer_sha256"),
    "no dtype": (_change_manifest(dtype=...), "dtype"),
    "an unknown dtype": (_change_manifest(dtype="uint17"), "dtype 'uint17'"),
    "a dtype of another vocabulary": (_change_manifest(dtype="float64"), "dtype 'float64'"),
    "float offsets": (_change_array("offsets.npy", lambda a: a.astype(float)), "offsets.npy"),
    "offsets not ascending": (_change_array("offsets.npy", _swapped), "offsets.npy"),
    "offsets changed": (
        _change_array("offsets.npy", lambda a: a + np.array([0, 1, 0, 0])),
        "offsets.npy",
    ),
    "a table of offsets": (_change_array("offsets.npy", lambda a: a[None]), "offsets.npy"),
    "an offset too few": (_change_array("offsets.npy", lambda a: a[1:]), "offsets.npy"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_store_is_refused(store: Path, tokenizer: Tokenizer, name: str) -> None:
    damage, complaint = DAMAGE[name]
    damage(store)
    with pytest.raises(InputError) as raised:
        SegmentStore(store).require_sound(tokenizer)
    assert str(store) in str(raised.value)
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("index", [1, 2, 32_000, 65_535])
def test_ids_that_no_text_has_are_refused(tokenizer: Tokenizer, tmp_path: Path, index: int) -> None:
    """Written so, with hashes that agree: the ids themselves are looked at."""
    write_store(tmp_path / "s", [("a", [("x", [500, index, 501])])], tokenizer)
    with pytest.raises(InputError, match=f"segment 0 .* holds id {index}"):
        SegmentStore(tmp_path / "s").require_sound(tokenizer)
