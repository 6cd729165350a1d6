"""A damaged checkpoint is named and set aside; the run goes on from a sound one, or not at all."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_in2.checkpoint.folder import complete_steps, mark_complete, read_tokenizer
from tests.conftest import RunTool, assert_refused
from tests.training.conftest import Train, WriteConfig, read_metrics

SAVING = ("--checkpoint.interval_steps=2", "--checkpoint.keep_last=0", "--data.validation=")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, train: Train) -> tuple[Path, dict]:
    """A finished run with steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("sound") / "run"
    return folder, train(folder, *SAVING)


@pytest.fixture
def folder(tmp_path: Path, sound: tuple[Path, dict]) -> Path:
    """A copy that may be damaged."""
    return shutil.copytree(sound[0], tmp_path / "run")


@pytest.fixture
def resume(
    run_tool: RunTool, write_config: WriteConfig
) -> Callable[..., subprocess.CompletedProcess]:
    def run(folder: Path, *options: object) -> subprocess.CompletedProcess[str]:
        return run_tool("train", "--config", write_config(folder), *SAVING, *options)

    return run


def _flip_bits(folder: Path) -> None:
    (shard, *_) = sorted((folder / "iter_0000006").glob("*.distcp"))
    content = bytearray(shard.read_bytes())
    for place in range(len(content) // 3, len(content) // 3 + 20):
        content[place] ^= 4
    shard.write_bytes(content)


def _exchange_a_shard(folder: Path) -> None:
    (shard, *_) = sorted((folder / "iter_0000006").glob("*.distcp"))
    shutil.copyfile(folder / "iter_0000004" / shard.name, shard)


def _change_the_state(folder: Path) -> None:
    state = folder / "iter_0000006" / "state.json"
    state.write_text(state.read_text().replace('"consumed_rows": 24', '"consumed_rows": 20'))


def _delete_files(folder: Path) -> None:
    (folder / "iter_0000006" / ".metadata").unlink()
    (folder / "iter_0000004" / "complete.json").write_text("")


@pytest.mark.parametrize(
    ("attack", "gone"),
    [
        (_flip_bits, ["iter_0000006"]),
        pytest.param(_exchange_a_shard, ["iter_0000006"], marks=pytest.mark.slow),
        pytest.param(_change_the_state, ["iter_0000006"], marks=pytest.mark.slow),
        pytest.param(_delete_files, ["iter_0000006", "iter_0000004"], marks=pytest.mark.slow),
    ],
)
def test_the_newest_sound_step_is_used_and_losses_are_bitwise_the_same(
    attack: Callable[[Path], None],
    gone: list[str],
    folder: Path,
    sound: tuple[Path, dict],
    resume: Callable[..., subprocess.CompletedProcess],
) -> None:
    attack(folder)
    result = resume(folder, "--nproc=2" if attack is _flip_bits else "--nproc=1")
    assert result.returncode == 0, result.stderr
    for name in gone:
        assert f"{name} is damaged" in result.stderr
        assert (folder / f"damaged_{name}").is_dir()
    assert "Traceback" not in result.stderr
    newest = max({"iter_0000002", "iter_0000004"} - set(gone))
    assert f"resuming from {folder / newest}" in result.stdout
    found, expected = read_metrics(folder), sound[1]
    assert sorted(found) == sorted(expected)
    for step, line in found.items():
        if attack is _flip_bits:  # two ranks: the same to rounding
            assert line["loss"] == pytest.approx(expected[step]["loss"], rel=1e-5)
        else:
            assert line["loss"] == expected[step]["loss"]
            assert line["grad_norm"] == expected[step]["grad_norm"]
    assert complete_steps(folder)[-1].name == "iter_0000006"


def test_a_run_without_a_sound_step_is_not_begun_anew(
    folder: Path, resume: Callable[..., subprocess.CompletedProcess]
) -> None:
    for step in complete_steps(folder):
        _flip_bits(step.parent)
        (step / "common.pt").unlink()
    assert_refused(resume(folder), "no sound checkpoint left", "common.pt is missing", "restore")
    for step in complete_steps(folder):
        step.rename(step.with_name(f"damaged_{step.name}"))
    assert_refused(resume(folder), "no sound checkpoint left (damaged_iter_0000002; ")


@pytest.mark.slow
def test_damage_that_only_a_full_reading_finds_ends_the_run_when_no_other_step_is_left(
    folder: Path, resume: Callable[..., subprocess.CompletedProcess]
) -> None:
    for name in ("iter_0000002", "iter_0000004"):
        shutil.rmtree(folder / name)
    _flip_bits(folder)
    result = resume(folder, "--nproc=2")
    assert_refused(result, "no sound checkpoint left (iter_0000006")


@pytest.mark.slow
def test_damaged_initial_weights_are_refused(
    folder: Path, tmp_path: Path, resume: Callable[..., subprocess.CompletedProcess]
) -> None:
    _flip_bits(folder)
    result = resume(tmp_path / "other", f"--checkpoint.init_from={folder}", "--nproc=2")
    assert_refused(result, "iter_0000006 is damaged", "does not have the content that was saved")
    assert not list(folder.glob("damaged_*"))  # it belongs to another run


def test_a_damaged_step_is_not_exported(folder: Path, tmp_path: Path, run_tool: RunTool) -> None:
    _exchange_a_shard(folder)
    output = tmp_path / "exported"
    arguments = ("megatron-to-hf", "--input", folder, "--output", output)
    assert_refused(run_tool("convert_checkpoint", *arguments), "iter_0000006 is damaged")
    assert not output.exists()
    result = run_tool("convert_checkpoint", *arguments, "--from", 4)
    assert result.returncode == 0, result.stderr


def test_one_command_checks_a_whole_run(
    folder: Path, sound: tuple[Path, dict], run_here: RunTool
) -> None:
    result = run_here("check_run", sound[0])
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count(" sound: ") == 4
    assert "metrics.jsonl     sound: steps 1 to 6, each once" in result.stdout
    _flip_bits(folder)
    _delete_files(folder)
    (folder / "iter_0000002").rename(folder / "damaged_iter_0000002")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:2] + lines[3:]))
    result = run_here("check_run", folder)
    assert result.returncode == 2
    assert [line.split(maxsplit=1) for line in result.stdout.splitlines()] == [
        ["iter_0000004", "is damaged: complete.json is not as it was written"],
        ["iter_0000006", "is damaged: .metadata is missing"],
        ["damaged_iter_0000002", "was set aside as damaged, and is not used"],
        ["metrics.jsonl", "step 4 is double, missing or out of order"],
    ]


def test_a_state_that_does_not_fit_is_found(
    folder: Path, run_here: RunTool, tmp_path: Path
) -> None:
    """The list of files may be sound and the run yet not: another run's step was put in."""
    step = folder / "iter_0000006"
    tokenizer = read_tokenizer(step)
    (step / "complete.json").unlink()
    _change_the_state(folder)
    mark_complete(step, 6, tokenizer)
    result = run_here("check_run", folder)
    assert result.returncode == 2
    assert "state.json has consumed_rows=20, metrics.jsonl 24" in result.stdout
    assert_refused(run_here("check_run", tmp_path / "nowhere"), "holds no complete checkpoint")


def test_token_ids_outside_the_vocabulary_are_refused_under_tensor_parallelism(
    tmp_path: Path, dataset: Path, resume: Callable[..., subprocess.CompletedProcess]
) -> None:
    """The embedding of a tensor-parallel rank takes any id for one of another rank's."""
    for path in dataset.parent.glob("in2[._]*"):
        shutil.copyfile(path, tmp_path / path.name)
    tokens = tmp_path / "in2.bin"
    tokens.write_bytes(b"\xff" * tokens.stat().st_size)
    result = resume(
        tmp_path / "run", f"--data.train={tmp_path / 'in2'}", "--parallel.tensor=2", "--nproc=2"
    )
    assert_refused(result, f"{tmp_path / 'in2'}: row ", "holds token id 65535", "has 1003")
