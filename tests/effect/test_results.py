"""Table and figure from answers whose curve is known."""

import json
from pathlib import Path

import matplotlib.image

from megatron_in2.effect.arms import ARMS
from megatron_in2.effect.materials import PROBE_BINS, write_probes
from megatron_in2.effect.results import report_results
from megatron_in2.files import atomic_file, read_json, read_json_lines

CONTEXTS = 20


def _answered_seed(folder: Path, middle_is_lost_in: tuple[str, ...]) -> Path:
    """Make a seed whose answers are right, but in some arms never in the middle half."""
    write_probes(folder / "probes.jsonl", CONTEXTS, folder.name)
    probes = [probe for _, probe in read_json_lines(folder / "probes.jsonl")]
    for theta in ("1e4", "1e6"):
        for arm in ARMS:
            with atomic_file(folder / theta / arm / "predictions" / "facts.jsonl") as stream:
                for probe in probes:
                    is_middle = 4 <= probe["position_id"] < 12
                    lost = theta == "1e4" and arm in middle_is_lost_in and is_middle
                    text = "nothing" if lost else probe["completion"]
                    stream.write(json.dumps({"samples": [text]}) + "\n")
    return folder


def test_the_curves_are_those_of_the_answers(tmp_path: Path) -> None:
    seeds = [
        _answered_seed(tmp_path / "seed1", ("ends", "control")),
        _answered_seed(tmp_path / "seed2", ("ends",)),
    ]
    table = report_results(seeds, tmp_path, ["1e4", "1e6"], list(ARMS))
    rows = {
        tuple(cell.strip() for cell in line.split("|")[1:3]): line for line in table.split("\n")
    }
    probes = 2 * CONTEXTS * PROBE_BINS
    lost = rows["1e4", ARMS["ends"].title]
    assert "| 0.500 (0.50 to 0.50) | 0.000 (0.00 to 0.00) | 1.000 (1.00 to 1.00) |" in lost
    assert f"| {probes} |" in lost
    assert "| 0.750 (0.75 to 0.75) | 0.500 (" in rows["1e4", ARMS["control"].title]
    for theta, arm in (("1e4", "in2"), ("1e4", "fixed"), ("1e6", "ends")):
        assert "| 1.000 (1.00 to 1.00) | 1.000" in rows[theta, ARMS[arm].title]
    assert "mean of 2 seeds" in (tmp_path / "table.md").read_text()
    report = read_json(tmp_path / "scores" / "1e4" / "control" / "report.json")
    assert report["sets"] == 2
    assert report["depths"][8]["deviation"] == 0.5  # one seed finds it, the other does not
    drawn = (tmp_path / "figure.svg").read_text()
    for words in ("RoPE theta 1e4", "RoPE theta 1e6", *(arm.title for arm in ARMS.values())):
        assert words in drawn
    assert matplotlib.image.imread(tmp_path / "figure.png").size > 0


def test_a_choice_of_arms(tmp_path: Path) -> None:
    seed = _answered_seed(tmp_path / "seed1", ())
    table = report_results([seed], tmp_path, ["1e6"], ["in2"])
    assert len(table.split("\n")) == 3
    assert "mean of 1 seed;" in (tmp_path / "table.md").read_text()
