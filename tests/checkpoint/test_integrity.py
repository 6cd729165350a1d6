"""Any damage to a sealed step is found and named; nothing sound is called damaged."""

import io
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_in2.checkpoint.integrity import (
    SMALL_BYTES,
    HashingStream,
    checked_meanwhile,
    find_damage,
    is_protected,
    seal_step,
    sum_of_file,
)
from megatron_in2.errors import InputError
from tests.conftest import ROOT

FILES = {"__0_0.distcp": b"weights" * 9, "config.yaml": b"a: 1\n", "huggingface/config.json": b"{}"}


def _sealed(folder: Path) -> Path:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    seal_step(folder, {"step": 3}, {"__0_0.distcp": sum_of_file(folder / "__0_0.distcp")})
    return folder


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _sealed(tmp_path_factory.mktemp("run") / "iter_0000003")


def test_a_sealed_step_is_sound_and_lists_every_file(sealed: Path) -> None:
    assert find_damage(sealed) is None
    content = json.loads((sealed / "complete.json").read_text())
    assert set(content["files"]) == set(FILES)
    assert content["step"] == 3
    assert is_protected(sealed)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_one_flipped_bit_anywhere_is_found(sealed: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([*FILES, "complete.json"]))
    content = bytearray((sealed / name).read_bytes())
    place = data.draw(st.integers(0, 8 * len(content) - 1))
    content[place // 8] ^= 1 << place % 8
    whole = (sealed / name).read_bytes()
    try:
        (sealed / name).write_bytes(content)
        assert name in (find_damage(sealed) or "")
        assert name in (find_damage(sealed, share=None) or "")  # all of its files are small
    finally:
        (sealed / name).write_bytes(whole)


@pytest.mark.parametrize("name", [*FILES, "complete.json"])
@pytest.mark.parametrize("attack", ["cut", "emptied", "deleted", "longer"])
def test_cut_and_missing_files_are_named(name: str, attack: str, tmp_path: Path) -> None:
    step = _sealed(tmp_path / "iter_0000003")
    content = (step / name).read_bytes()
    changed = {"cut": content[:-2], "emptied": b"", "longer": content + b"x"}
    (step / name).unlink()
    if attack in changed:
        (step / name).write_bytes(changed[attack])
    problem = find_damage(step, share=None)
    assert problem is not None
    assert problem.startswith(f"{name} ")


def test_a_look_compares_only_the_sizes_of_large_files(tmp_path: Path) -> None:
    step = tmp_path / "iter_0000001"
    step.mkdir()
    (step / "large").write_bytes(bytes(SMALL_BYTES + 1))
    seal_step(step, {}, {})
    (step / "large").write_bytes(b"\1" + bytes(SMALL_BYTES))
    assert find_damage(step, share=None) is None
    assert find_damage(step) == "large does not have the content that was saved"


def test_the_shares_of_all_ranks_cover_every_file(tmp_path: Path) -> None:
    for name in FILES:
        step = _sealed(tmp_path / name.replace("/", "-") / "iter_0000003")
        content = (step / name).read_bytes()
        (step / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
        found = [find_damage(step, (index, 5)) for index in range(5)]
        assert len([problem for problem in found if problem]) == 1


def test_a_step_of_version_1_has_no_hashes_and_no_damage() -> None:
    step = ROOT / "tests" / "version1" / "checkpoints" / "iter_0000002"
    assert find_damage(step) is None
    assert not is_protected(step)


def test_what_reads_a_damaged_step_fails_with_the_damage(tmp_path: Path) -> None:
    step = _sealed(tmp_path / "iter_0000003")
    with checked_meanwhile(step):
        pass
    shutil.copyfile(step / "config.yaml", step / "__0_0.distcp")
    for error in (None, RuntimeError("what the damage led to")):
        with pytest.raises(InputError, match="iter_0000003 is damaged"), checked_meanwhile(step):
            if error:
                raise error


@given(st.lists(st.binary(max_size=50), max_size=9))
def test_the_stream_hashes_what_it_writes(blocks: list[bytes]) -> None:
    file = io.BytesIO()
    stream = HashingStream(file)
    for block in blocks:
        stream.write(block)
    assert stream.tell() == stream.sum.bytes == len(file.getvalue())
    other = HashingStream(io.BytesIO())
    other.write(b"".join(blocks))
    assert stream.sum == other.sum
