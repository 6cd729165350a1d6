"""The indexed files are, byte for byte, what Megatron-Core's own builder writes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from megatron_in2.data.packed.manifest import ROW_RECORD, SAMPLE_RECORD, part_path
from megatron_in2.data.packed.row_files import RowFiles, sequence_lengths
from megatron_in2.errors import InputError


def _append(files: RowFiles, row: int, lengths: list[int]) -> np.ndarray:
    tokens = np.random.default_rng(row).integers(0, 32_000, sum(lengths)).astype(np.uint16)
    records = np.zeros(len(lengths), SAMPLE_RECORD)
    records["row"], records["length"] = row, lengths
    rows = np.zeros(1, ROW_RECORD)
    mask = (tokens % 2).astype(np.uint8)
    files.append(tokens.tobytes(), mask.tobytes(), lengths, records, rows)
    return tokens


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
    for row, lengths in enumerate(rows):
        tokens = torch.from_numpy(_append(files, row, lengths).astype(np.int32))
        builder.add_document(tokens, lengths)
        masks.add_document(tokens % 2, lengths)
    files.finish()
    builder.finalize(str(part_path(theirs, ".idx")))
    masks.finalize(str(part_path(theirs, "_loss_mask.idx")))
    for part in (".bin", ".idx", "_loss_mask.bin", "_loss_mask.idx"):
        assert part_path(ours, part).read_bytes() == part_path(theirs, part).read_bytes()
    flat = [length for lengths in rows for length in lengths]
    assert sequence_lengths(part_path(ours, ".idx")).tolist() == flat
    assert np.load(part_path(ours, "_samples.npy"))["length"].tolist() == flat
    assert len(np.load(part_path(ours, "_rows.npy"))) == len(rows)


def test_files_cut_back_go_on_as_if_never_cut(tmp_path: Path) -> None:
    straight, cut = RowFiles(tmp_path / "a", np.uint16), RowFiles(tmp_path / "b", np.uint16)
    for files in (straight, cut):
        _append(files, 0, [4, 8])
    sizes = cut.sync()
    _append(cut, 1, [99])
    cut.close()
    again = RowFiles(tmp_path / "b", np.uint16, sizes)
    for files in (straight, again):
        _append(files, 1, [16, 1])
        files.finish()
    for path in tmp_path.glob("a*"):
        assert path.read_bytes() == (tmp_path / f"b{path.name[1:]}").read_bytes()


def test_files_shorter_than_stated_are_refused(tmp_path: Path) -> None:
    files = RowFiles(tmp_path / "a", np.uint16)
    _append(files, 0, [4])
    sizes = files.sync()
    files.close()
    part_path(tmp_path / "a", ".bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"a.bin is damaged"):
        RowFiles(tmp_path / "a", np.uint16, sizes)
