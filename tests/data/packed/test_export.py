"""Exports for other trainers, read by their own packages: the same samples, the same loss mask."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from megatron_in2.data.packed.dataset import PackedDataset
from megatron_in2.data.packed.export import BEHIND_END, export_dataset
from megatron_in2.errors import InputError
from tests.data.conftest import Pack, WriteSamples

SEQ_LENGTH = 1024
SCRIPT = Path(__file__).with_name("other_trainers.py")


@pytest.fixture
def data(
    pack: Pack, write_samples: WriteSamples, mixed_records: list[dict[str, Any]]
) -> PackedDataset:
    return pack(write_samples(mixed_records[:90]), seq_length=SEQ_LENGTH, overlong="drop")


def _samples(data: PackedDataset) -> list[list[tuple[np.ndarray, np.ndarray, int]]]:
    """(ids, mask, padded length) of the samples of each row."""
    rows = []
    for row in map(data.__getitem__, range(len(data))):
        samples, start = [], 0
        for padded, record in zip(row.lengths, row.records, strict=True):
            end = start + int(record["length"])
            if end > start:
                samples.append((row.tokens[start:end], row.loss_mask[start:end], padded))
            start += padded
        rows.append(samples)
    return rows


def test_the_file_of_megatron_bridge(data: PackedDataset, tmp_path: Path) -> None:
    output = tmp_path / "out" / "rows.npy"
    found = export_dataset(data.prefix, output, "megatron-bridge", overwrite=False)
    assert (found["rows"], found["samples"]) == (len(data), data.manifest.samples)
    packed, eos = np.load(output, allow_pickle=True), data.manifest.eos_id
    for row, samples in zip(packed, _samples(data), strict=True):
        borders = [*row["seq_start_id"], len(row["input_ids"])]
        assert np.diff(borders).tolist() == [padded + 1 for _, _, padded in samples]
        for start, end, (ids, mask, _) in zip(borders, borders[1:], samples, strict=False):
            own = row["input_ids"][start:end]
            assert np.array_equal(own[: len(ids)], ids)
            assert (own[len(ids) :] == eos).all()
            trained = np.flatnonzero(row["loss_mask"][start : end - 1])
            assert (trained + 1).tolist() == np.flatnonzero(mask).tolist()  # the next is predicted
            assert not row["loss_mask"][end - 1]
    (metadata,) = json.loads((tmp_path / "out" / "rows.metadata.json").read_text())
    assert metadata["max_samples_per_bin"] == max(map(len, _samples(data)))
    assert metadata["pack_size"] == SEQ_LENGTH


def test_the_file_of_trl(data: PackedDataset, tmp_path: Path) -> None:
    output = tmp_path / "rows.parquet"
    found = export_dataset(data.prefix, output, "trl", overwrite=False)
    assert found["trained tokens"] == data.manifest.learnt_tokens
    rows = pyarrow.parquet.read_table(output).to_pylist()
    for row, samples in zip(rows, _samples(data), strict=True):
        ids = np.concatenate([ids for ids, _, _ in samples])
        mask = np.concatenate([mask for _, mask, _ in samples])
        assert row["input_ids"] == ids.tolist()
        assert row["labels"] == np.where(mask, ids, -100).tolist()
        assert row["seq_lengths"] == [len(ids) for ids, _, _ in samples]


def test_tokens_behind_an_end_are_counted(
    pack: Pack, write_samples: WriteSamples, tmp_path: Path
) -> None:
    turns = [("user", "Hi."), ("assistant", "Yes?"), ("user", "Bye."), ("assistant", "Bye!")]
    chat = {"id": "c", "messages": [{"role": role, "content": text} for role, text in turns]}
    data = pack(write_samples([chat]), name="chat", seq_length=256)
    found = export_dataset(data.prefix, tmp_path / "chat.npy", "megatron-bridge", False)
    assert BEHIND_END not in found
    tokens, mask = data[0].tokens, data[0].loss_mask.copy()
    mask[1 + np.flatnonzero(tokens == data.manifest.eos_id)[0]] = 1
    (data.prefix.with_name("chat_loss_mask.bin")).write_bytes(mask.tobytes())
    found = export_dataset(data.prefix, tmp_path / "odd.npy", "megatron-bridge", False)
    assert found[BEHIND_END] == 1


def test_what_cannot_be_exported(
    data: PackedDataset, pack: Pack, write_samples: WriteSamples, tmp_path: Path
) -> None:
    output = tmp_path / "rows.npy"
    with pytest.raises(InputError, match=r"--trainer nemo: use megatron-bridge or trl"):
        export_dataset(data.prefix, output, "nemo", False)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"rows.npy: trl reads .parquet files"):
        export_dataset(data.prefix, output, "trl", False)
    export_dataset(data.prefix, output, "megatron-bridge", False)
    with pytest.raises(InputError, match=r"rows.npy exists: pass --overwrite"):
        export_dataset(data.prefix, output, "megatron-bridge", False)
    export_dataset(data.prefix, output, "megatron-bridge", True)
    path = write_samples([{"id": "a", "parts": [{"text": "a", "learn": True}]}])
    empty = pack(path, name="empty", shard=1, num_shards=2)
    with pytest.raises(InputError, match="empty holds no rows"):
        export_dataset(empty.prefix, tmp_path / "empty.npy", "megatron-bridge", False)


def _read_by_its_package(*arguments: object) -> Any:
    """Run the script where the packages are; return what it saved.

    Skips where ``OTHER_TRAINERS_PYTHON`` names no interpreter with megatron-bridge and trl.
    """
    python = os.environ.get("OTHER_TRAINERS_PYTHON")
    if not python:
        pytest.skip("OTHER_TRAINERS_PYTHON names no interpreter with megatron-bridge and trl")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, str(SCRIPT), *map(str, arguments)]
    subprocess.run(command, check=True, env=environment)
    return np.load(arguments[-1])


def test_megatron_bridge_trains_on_the_same(data: PackedDataset, tmp_path: Path) -> None:
    output, eos = tmp_path / "rows.npy", data.manifest.eos_id
    export_dataset(data.prefix, output, "megatron-bridge", overwrite=False)
    batch = _read_by_its_package("bridge", output, eos, SEQ_LENGTH, tmp_path / "batch.npz")
    assert batch["tokens"].shape == (len(data), SEQ_LENGTH)
    for index, samples in enumerate(_samples(data)):
        borders = [0, *np.cumsum([padded for _, _, padded in samples]).tolist()]
        found = batch["cu_seqlens"][index]
        assert found[: len(borders)].tolist() == borders
        assert set(found[len(borders) :].tolist()) <= {SEQ_LENGTH, -1}
        for start, (ids, mask, padded) in zip(borders, samples, strict=False):
            inputs, labels, loss_mask, positions = (
                batch[name][index, start : start + padded]
                for name in ("tokens", "labels", "loss_mask", "position_ids")
            )
            assert np.array_equal(inputs[: len(ids)], ids)
            assert np.array_equal(positions, np.arange(padded))
            trained = np.flatnonzero(loss_mask)
            assert (trained + 1).tolist() == np.flatnonzero(mask).tolist()
            assert np.array_equal(labels[trained], ids[trained + 1])
        assert not batch["loss_mask"][index, borders[-1] :].any()


def test_trl_trains_on_the_same(data: PackedDataset, tmp_path: Path) -> None:
    output = tmp_path / "rows.parquet"
    export_dataset(data.prefix, output, "trl", overwrite=False)
    found = _read_by_its_package("trl", output, tmp_path / "found.npz")
    samples = [sample for row in _samples(data) for sample in row]
    ids = np.concatenate([ids for ids, _, _ in samples])
    mask = np.concatenate([mask for _, mask, _ in samples])
    assert np.array_equal(found["input_ids"], ids)
    assert np.array_equal(found["labels"], np.where(mask, ids, -100))
    positions = np.concatenate([np.arange(len(ids)) for ids, _, _ in samples])
    assert np.array_equal(found["position_ids"], positions)
    together, alone, blind = found["losses"]
    assert together == pytest.approx(alone, rel=1e-5)
    assert abs(blind - alone) > 1e-3 * alone  # samples that see one another have another loss
