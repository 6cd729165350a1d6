"""Figures: written whole, in the format asked for, with what they must show."""

from dataclasses import replace
from pathlib import Path

import matplotlib.image
import pytest

from megatron_in2.errors import InputError
from megatron_in2.evaluation.probing.plot import plot_curves, plot_heat_map
from megatron_in2.evaluation.probing.report import write_probe_report
from tests.evaluation.probing.test_report import report


def _written(folder: Path, *reports) -> list[Path]:
    paths = [folder / f"{number}.json" for number in range(len(reports))]
    for path, one in zip(paths, reports, strict=True):
        write_probe_report(one, path)
    return paths


def test_the_three_panels(tmp_path: Path) -> None:
    tasks = ("document", "code", "database")
    paths = _written(tmp_path, *(report(name, task) for task in tasks for name in ("a", "b")))
    plot_curves(paths, tmp_path / "x.svg", paper_averages=True)
    drawn = (tmp_path / "x.svg").read_text()
    for words in (
        "Document Sentence Retrieval (Bi-Direction)",
        "Code Function Retrieval (Backward)",
        "Database Entity Retrieval (Forward)",
        "relative position in 100 Sentences",
        "FILM-7B, the paper's average",
    ):
        assert f"<!-- {words} -->" in drawn
    plot_curves(paths[:2], tmp_path / "x.png", paper_averages=False)
    height, width, _ = matplotlib.image.imread(tmp_path / "x.png").shape
    assert min(height, width) > 500


def test_the_heat_map(tmp_path: Path) -> None:
    lengths = (4000, 8000, 16000)
    reports = [replace(report(average=0.3), context_tokens=length) for length in lengths]
    paths = _written(tmp_path, *reports)
    plot_heat_map(paths, tmp_path / "x.svg")
    drawn = (tmp_path / "x.svg").read_text()
    for words in ("4,000", "16,000", "context (tokens)", "evidence position in the context (%)"):
        assert f"<!-- {words} -->" in drawn
    plot_heat_map(paths, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_bad_input(tmp_path: Path) -> None:
    paths = _written(tmp_path, report(), report())
    with pytest.raises(InputError, match=r"x\.txt: name it \.png or \.svg"):
        plot_curves(paths, tmp_path / "x.txt", paper_averages=False)
    with pytest.raises(InputError, match="different, known context lengths"):
        plot_heat_map(paths, tmp_path / "x.png")
    longer = replace(report(), context_tokens=8000)
    for other, words in (
        (replace(longer, name="other"), "one model and one task"),
        (replace(longer, depths=longer.depths[:1]), "the same depths throughout"),
        (replace(longer, context_tokens=None), "different, known context lengths"),
    ):
        with pytest.raises(InputError, match=words):
            plot_heat_map(_written(tmp_path, report(), other), tmp_path / "x.png")
    assert not list(tmp_path.glob("x.*"))
