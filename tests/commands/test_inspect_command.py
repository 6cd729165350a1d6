"""``in2 inspect``: rows as text, page and JSON; what --verify finds."""

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_in2.data.packed.dataset import PackedDataset
from megatron_in2.data.packed.manifest import part_path
from tests.conftest import RunTool, assert_refused
from tests.data.conftest import Pack, WriteSamples, text_sample


@pytest.fixture
def data(pack: Pack, write_samples: WriteSamples) -> PackedDataset:
    context = "Paris is <b>in</b> France.\n" + "Filler line.\n" * 100
    first = {**text_sample(0, context, "Where is Paris?", "In France."), "evidence": [[0, 24]]}
    return pack(write_samples([first, text_sample(1, None, "Say hi.", "hi")]), seq_length=1024)


def test_it_shows_rows_json_page_and_plot(
    data: PackedDataset, run_here: RunTool, tmp_path: Path
) -> None:
    (row,) = json.loads(run_here("inspect_dataset", data.prefix, "--row", 0, "--json").stdout)
    trained = [text for text, trained in row["samples"][0]["runs"] if trained]
    assert trained == ["In France.", "</s>"]
    page, picture = tmp_path / "rows.html", tmp_path / "out" / "lengths.png"
    result = run_here(
        *("inspect_dataset", data.prefix, "--row", 0, "--html", page, "--plot", picture)
    )
    assert result.returncode == 0, result.stderr
    assert "<mark>In France.</mark>" in page.read_text()
    assert "&lt;b&gt;in&lt;/b&gt;" in page.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_it_summarises_and_verifies(data: PackedDataset, run_here: RunTool) -> None:
    summary = run_here("inspect_dataset", data.prefix).stdout
    assert "1 of 1,024 tokens" in summary
    assert "kind fine_grained" in summary
    sound = run_here("inspect_dataset", data.prefix, "--verify")
    assert (sound.returncode, sound.stdout.splitlines()[-1]) == (0, "sound")
    assert "2 of them directly after a prompt" in sound.stdout
    path = part_path(data.prefix, "_loss_mask.bin")
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)
    broken = run_here("inspect_dataset", data.prefix, "--verify", "--json")
    assert broken.returncode == 2
    findings: dict[str, Any] = json.loads(broken.stdout)
    assert "does not have the content" in findings["problems"][0]


def test_it_shows_the_mixture_of_steps(
    data: PackedDataset, run_here: RunTool, tmp_path: Path
) -> None:
    picture = tmp_path / "steps.svg"
    options = ("--mixture", "--rows-per-step", 1, "--plot", picture)
    shown = run_here("inspect_dataset", data.prefix, *options)
    assert "1 steps of 1 rows" in shown.stdout, shown.stderr
    assert "<svg" in picture.read_text()
    values = json.loads(run_here("inspect_dataset", data.prefix, *options, "--json").stdout)
    assert sum(values["trained_tokens"][0]) == data.manifest.learnt_tokens
    assert_refused(run_here("inspect_dataset", data.prefix, "--mixture"), "a step of 64")


def test_a_plot_has_no_empty_panel(
    data: PackedDataset, pack: Pack, write_samples: WriteSamples, run_here: RunTool, tmp_path: Path
) -> None:
    plain = pack(write_samples([text_sample(0, None, "Say hi.", "hi")]), name="p", seq_length=256)
    for prefix, panels in ((data.prefix, 2), (plain.prefix, 1)):
        result = run_here("inspect_dataset", prefix, "--plot", tmp_path / "lengths.svg")
        assert result.returncode == 0, result.stderr
        assert (tmp_path / "lengths.svg").read_text().count('id="axes_') == panels
        assert ("evidence position" in result.stdout) == (panels == 2)


def test_terminals_get_no_control_characters(
    pack: Pack, write_samples: WriteSamples, run_here: RunTool
) -> None:
    nasty = "red \x1b[31m bell \x07 back \u202e end \x9b2J"
    sample = text_sample(0, None, f"Say {nasty}", f"I say {nasty}.")
    data = pack(write_samples([sample | {"kind": "k\x1b[2J\n"}]), seq_length=256)
    for options in (("--row", 0), (), ("--mixture", "--rows-per-step", 1)):
        shown = run_here("inspect_dataset", data.prefix, *options).stdout
        assert not set(shown) & set("\x1b\x07\u202e\x9b")
        assert "k\\x1b[2J\\n" in shown
    assert (
        "bell \\x07 back \\u202e end \\x9b2J"
        in run_here("inspect_dataset", data.prefix, "--row", 0).stdout
    )


def test_what_is_not_there_is_refused(data: PackedDataset, run_here: RunTool) -> None:
    assert_refused(run_here("inspect_dataset", data.prefix, "--row", 1), "no row 1", "0 to 0")
    assert_refused(run_here("inspect_dataset", "absent"), "no packed dataset at absent")
