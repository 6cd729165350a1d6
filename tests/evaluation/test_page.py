"""The page of a model: its content, and its behaviour in a real browser where one is installed."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_in2.errors import InputError
from megatron_in2.evaluation.benchmarks.catalogue import BenchmarkScore
from megatron_in2.evaluation.benchmarks.report import ModelScores
from megatron_in2.evaluation.page import MOST_ANSWERS, read_answers, write_page
from megatron_in2.evaluation.probing.report import read_probe_report, write_probe_report
from megatron_in2.evaluation.probing.score import Grouping, score_predictions

HOSTILE = "</script><script>document.title = 'broken'</script> & <b>bold</b>"
UNITS = 60
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Probes of the code task; every third answer is wrong, one is null, all hold markup."""
    folder = tmp_path_factory.mktemp("probes")
    labels, predictions = folder / "code.jsonl", folder / "mine" / "code.jsonl"
    predictions.parent.mkdir()
    records = [
        {
            "prompt": f"which function {HOSTILE} number {place}?",
            "completion": f"name_{place:03}",
            "position_id": place,
            "set_id": 0,
            "units": UNITS,
            "task": "code",
            "context_tokens": 900,
            "fill": 0.5,
        }
        for place in range(UNITS)
    ]
    given: list[str | None] = [
        HOSTILE if place % 3 == 0 else f"def name_{place:03}: {HOSTILE}" for place in range(UNITS)
    ]
    given[7] = None
    labels.write_text("\n".join(map(json.dumps, records)))
    predictions.write_text("\n".join(json.dumps({"samples": [text]}) for text in given))
    return labels, predictions


@pytest.fixture(scope="module")
def page(probes: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    report = folder / "code.json"
    write_probe_report(score_predictions(*probes, Grouping(span=20)), report)
    mine = ModelScores("mine", {"csqa": BenchmarkScore(70, 9)}, {"mmlu": HOSTILE})
    base = ModelScores("base", {"csqa": BenchmarkScore(75, 9)})
    of_base = replace(read_probe_report(report), name="base", average=0.9)
    write_probe_report(of_base, folder / "base.json")
    reports = [report, folder / "base.json"]
    write_page(folder / "page.html", reports, mine, base, [read_answers(*probes)])
    return folder / "page.html"


def test_tables_and_escaping(page: Path) -> None:
    text = page.read_text()
    assert "<title>mine: evaluation</title>" in text
    assert '<span class="drop">-5.0</span>' in text
    assert "<span >+5.3</span>" in text  # the paper's change
    assert '<span class="drop">-23.9</span>' in text  # probing: 66.1 beside the base's 90
    assert "900 (50 % full)" in text
    assert "FILM-7B 83.3" in text
    assert HOSTILE not in text
    assert text.count("<script") == 2  # ours: the answers, and what shows them
    assert re.search(r"https?://", text) is None  # it loads nothing


def test_many_answers_are_thinned_evenly(tmp_path: Path) -> None:
    count = 2 * MOST_ANSWERS + 1
    labels, predictions = tmp_path / "l.jsonl", tmp_path / "p.jsonl"
    labels.write_text(
        "\n".join(
            json.dumps({"completion": "x", "position_id": place, "task": "code"})
            for place in range(count)
        )
    )
    predictions.write_text('{"sample": "x"}\n' * count)
    found = read_answers(labels, predictions)
    assert found.total == count
    assert len(found.shown) <= MOST_ANSWERS
    assert [answer.place for answer in found.shown[:2]] == [0, pytest.approx(300 / count)]


def test_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to show: give --reports"):
        write_page(tmp_path / "page.html", [], None, None, [])


@pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome is installed")
def test_in_a_browser(page: Path, tmp_path: Path) -> None:
    dom, console = _open(page, tmp_path / "all", "")
    assert console == []
    assert "<title>mine: evaluation</title>" in dom
    assert f">{UNITS} answers<" in dom
    assert dom.count("<details") == 25  # the first page of them
    dom, console = _open(
        page,
        tmp_path / "wrong",
        """form.elements.outcome.value = "wrong"; form.elements.from.value = 50;
        form.dispatchEvent(new Event("input"));""",
    )
    assert console == []
    assert ">10 answers<" in dom  # every third of the last 30
    assert dom.count('<details class="wrong"') == 10
    assert "document.title = 'broken'" in dom  # the hostile text is shown, as text
    _, console = _open(page, tmp_path / "fault", "noSuchFunction();")
    assert console, "an error must be seen"


def _open(page: Path, profile: Path, action: str) -> tuple[str, list[str]]:
    """Open a copy of the page whose last script does something more.

    Returns:
        (the page as the browser has it then, its console's errors).
    """
    copy = profile.with_suffix(".html")
    copy.write_text(page.read_text().replace("\nshow();\n", f"\nshow();\n{action}\n"))
    result = subprocess.run(
        [
            str(BROWSER),
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--enable-logging=stderr", f"--user-data-dir={profile}", "--dump-dom", str(copy)),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return result.stdout, [line for line in result.stderr.splitlines() if ":CONSOLE" in line]
