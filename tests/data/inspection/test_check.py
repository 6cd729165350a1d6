"""Verification: a sound dataset passes; any flipped bit, and any wrong content, is found."""

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_in2.data.inspection.check import check_dataset
from megatron_in2.data.packed.dataset import PackedDataset
from megatron_in2.data.packed.manifest import PARTS, part_path, write_manifest
from megatron_in2.errors import InputError
from megatron_in2.tokenizers.base import Tokenizer
from tests.data.conftest import Pack, WriteSamples

Edit = Callable[[np.ndarray], None]


@pytest.fixture
def sound(pack: Pack, write_samples: WriteSamples, mixed_records: list[dict[str, Any]]) -> Path:
    return pack(write_samples(mixed_records[:60]), seq_length=1024, overlong="drop").prefix


def test_a_sound_dataset_passes(sound: Path, tokenizer: Tokenizer) -> None:
    findings = check_dataset(sound, tokenizer)
    manifest = PackedDataset(sound).manifest
    assert findings.problems == []
    assert findings.samples == manifest.samples
    assert findings.learnt_tokens == manifest.learnt_tokens
    # Answers follow [/INST], except those of parts that follow a wrong first attempt.
    assert findings.spans - findings.marked_spans == manifest.samples_by_kind["parts"]


def test_one_flipped_bit_anywhere_is_found(sound: Path, tokenizer: Tokenizer) -> None:
    chance = random.Random(0)
    for part in (*PARTS, ".json"):
        path = part_path(sound, part)
        content = path.read_bytes()
        places = {0, len(content) - 1, *(chance.randrange(len(content)) for _ in range(12))}
        for place in sorted(places):
            flipped = bytearray(content)
            flipped[place] ^= 1 << chance.randrange(8)
            path.write_bytes(flipped)
            try:
                problems = check_dataset(sound, tokenizer).problems
            except InputError as error:
                problems = [str(error)]
            assert problems, f"bit flip at byte {place} of {path.name} was not found"
        path.write_bytes(content)
    assert check_dataset(sound, tokenizer).problems == []


def _reseal(prefix: Path) -> None:
    """Seal the changed files as if they had been written so: only the contents show it."""
    manifest = PackedDataset(prefix).manifest
    write_manifest(prefix, replace(manifest, files={}, histograms={}))


def _edit(prefix: Path, part: str, edit: Edit) -> None:
    if part.endswith(".npy"):
        values = np.load(part_path(prefix, part), mmap_mode="r+")
    else:
        values = np.memmap(part_path(prefix, part), np.uint8 if "mask" in part else np.uint16, "r+")
    edit(values)
    values.flush()
    _reseal(prefix)


def _set(place: int, value: int) -> Edit:
    return lambda values: values.__setitem__(place, value)


def _set_field(name: str, place: int, value: float) -> Edit:
    return lambda values: values[name].__setitem__(place, value)


@pytest.mark.parametrize(
    ("part", "edit", "problem"),
    [
        ("_loss_mask.bin", _set(0, 1), "first token is trained on"),
        ("_loss_mask.bin", _set(1, 1), "another sum"),
        ("_loss_mask.bin", _set(-1, 1), "padding is trained on"),
        ("_loss_mask.bin", _set(3, 2), "neither 0 nor 1"),
        (".bin", _set(5, 40_000), "an id is no piece"),
        (".bin", _set(0, 7), "lacks <s>"),
        (".bin", _set(-1, 7), "padding is no padding"),
        ("_samples.npy", _set_field("learnt_tokens", 0, 1), "other trained tokens"),
        ("_samples.npy", _set_field("learnt_spans", 0, 9), "other spans"),
        ("_samples.npy", _set_field("length", 0, 5), "its sample and its padding"),
        ("_samples.npy", _set_field("kind", 0, 0), "kind of padding"),
        ("_samples.npy", _set_field("kind", 0, 99), "has no name"),
        ("_samples.npy", _set_field("row", 0, 1), "does not match"),
        ("_rows.npy", _set_field("attention_cost", 0, 1), "another cost"),
    ],
)
def test_wrong_contents_are_found_even_under_right_hashes(
    sound: Path, tokenizer: Tokenizer, part: str, edit: Edit, problem: str
) -> None:
    _edit(sound, part, edit)
    problems = check_dataset(sound, tokenizer).problems
    assert any(problem in each for each in problems), problems


def test_an_end_that_is_missing_is_found(sound: Path, tokenizer: Tokenizer) -> None:
    end = int(PackedDataset(sound)[0].records["length"][0]) - 1
    _edit(sound, ".bin", _set(end, 7))
    assert any("lacks </s>" in each for each in check_dataset(sound, tokenizer).problems)


def test_twins_that_differ_are_found(sound: Path, tokenizer: Tokenizer) -> None:
    shutil.copyfile(part_path(sound, ".idx"), part_path(sound, "_loss_mask.idx"))
    _reseal(sound)
    problems = check_dataset(sound, tokenizer).problems
    assert any("_loss_mask.idx does not match" in each for each in problems)


def test_another_tokenizer_is_refused(sound: Path, small_tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="another tokenizer"):
        check_dataset(sound, small_tokenizer)
