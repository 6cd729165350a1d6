"""The indexed files are, byte for byte, what Megatron-Core's own builder writes."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from megatron_in2.data.packed.manifest import ROW_RECORD, SAMPLE_RECORD, part_path
from megatron_in2.data.packed.row_files import RowFiles, Sequences, sequence_lengths
from megatron_in2.errors import InputError


def _row(number: int, lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.random.default_rng(number).integers(0, 32_000, sum(lengths)).astype(np.uint16)
    return tokens, (tokens % 2).astype(np.uint8)


def _sequences(rows: list[list[int]]) -> Sequences:
    flat = [length for lengths in rows for length in lengths]
    samples = np.zeros(len(flat), SAMPLE_RECORD)
    samples["row"] = [row for row, lengths in enumerate(rows) for _ in lengths]
    samples["length"] = flat
    return Sequences(samples, np.array(flat, np.int32), np.zeros(len(rows), ROW_RECORD))


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=5), min_size=1, max_size=9))
def test_megatrons_builder_writes_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]]
) -> None:
    folder = tmp_path_factory.mktemp("files")
    ours, theirs = folder / "ours", folder / "theirs"
    files = RowFiles(ours, np.uint16)
    builder = IndexedDatasetBuilder(str(part_path(theirs, ".bin")), np.uint16)
    masks = IndexedDatasetBuilder(str(part_path(theirs, "_loss_mask.bin")), np.uint8)
    for number, lengths in enumerate(rows):
        tokens, mask = _row(number, lengths)
        files.append(tokens.tobytes(), mask.tobytes())
        builder.add_document(torch.from_numpy(tokens.astype(np.int32)), lengths)
        masks.add_document(torch.from_numpy(mask), lengths)
    hashes = files.finish(_sequences(rows))
    builder.finalize(str(part_path(theirs, ".idx")))
    masks.finalize(str(part_path(theirs, "_loss_mask.idx")))
    for part in (".bin", ".idx", "_loss_mask.bin", "_loss_mask.idx"):
        assert part_path(ours, part).read_bytes() == part_path(theirs, part).read_bytes()
    for part, digest in hashes.items():
        assert digest == hashlib.sha256(part_path(ours, part).read_bytes()).hexdigest()
    flat = [length for lengths in rows for length in lengths]
    assert sequence_lengths(part_path(ours, ".idx")).tolist() == flat
    assert np.load(part_path(ours, "_samples.npy"))["length"].tolist() == flat
    assert len(np.load(part_path(ours, "_rows.npy"))) == len(rows)


def test_files_cut_back_go_on_as_if_never_cut(tmp_path: Path) -> None:
    rows = [[4, 8], [16, 1]]
    straight, cut = RowFiles(tmp_path / "a", np.uint16), RowFiles(tmp_path / "b", np.uint16)
    for files in (straight, cut):
        files.append(*(part.tobytes() for part in _row(0, rows[0])))
    size = cut.sync()
    cut.append(*(part.tobytes() for part in _row(7, [99])))
    cut.sync()
    cut.close()
    again = RowFiles(tmp_path / "b", np.uint16, size)
    hashes = []
    for files in (straight, again):
        files.append(*(part.tobytes() for part in _row(1, rows[1])))
        hashes.append(files.finish(_sequences(rows)))
    assert hashes[0] == hashes[1]
    for path in tmp_path.glob("a*"):
        assert path.read_bytes() == (tmp_path / f"b{path.name[1:]}").read_bytes()


@pytest.mark.parametrize("rows_at_once", [1, 3])
def test_zeros_of_the_mask_take_no_space(tmp_path: Path, rows_at_once: int) -> None:
    """Most of a mask is zeros; also where rows are cut back to before an earlier one."""
    files = RowFiles(tmp_path / "a", np.uint16)
    size = 65_536
    mask = bytearray(size * rows_at_once)
    mask[100:200] = b"\x01" * 100
    for _ in range(8):
        files.append(bytes(2 * len(mask)), bytes(mask))
    kept = files.sync() // 2
    files.close()
    again = RowFiles(tmp_path / "a", np.uint16, kept)
    again.append(bytes(2 * len(mask)), bytes(len(mask)))
    again.sync()
    content = part_path(tmp_path / "a", "_loss_mask.bin").read_bytes()
    assert content == bytes(mask) * 4 + bytes(len(mask))
    assert part_path(tmp_path / "a", "_loss_mask.bin").stat().st_blocks * 512 < len(content) / 4
    again.close()


def test_files_shorter_than_stated_are_refused(tmp_path: Path) -> None:
    files = RowFiles(tmp_path / "a", np.uint16)
    files.append(*(part.tobytes() for part in _row(0, [4])))
    size = files.sync()
    files.close()
    part_path(tmp_path / "a", ".bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"a.bin is damaged"):
        RowFiles(tmp_path / "a", np.uint16, size)
