"""Tables, figures and expected directions from answers whose curve is known."""

import json
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from megatron_in2.files import atomic_file, read_json, read_json_lines, write_json
from megatron_in2.lab.config import LabConfig, Selection, select
from megatron_in2.lab.expected import compare_all, resampled, value_of
from megatron_in2.lab.results import report_study
from megatron_in2.lab.scores import score_measure
from megatron_in2.lab.seed.materials import write_judged, write_probes
from megatron_in2.lab.seed.places import SeedFolder
from megatron_in2.lab.study import Study, load_study
from megatron_in2.lab.worlds.fact_samples import FACT_WORLD, FactMeasure

CONTEXTS = 20


@pytest.fixture(scope="module")
def study() -> Study:
    return load_study("placement")


def _answered_seed(
    study: Study, selection: Selection, number: int, middle_is_lost_in: tuple[str, ...]
) -> SeedFolder:
    """Make a seed whose answers are right, but in some arms never in the middle half."""
    seed = SeedFolder(selection.home / f"seed{number}")
    measure = FactMeasure("title", contexts=CONTEXTS)
    write_probes(seed.probes("position"), FACT_WORLD, measure, f"{number}")
    probes = [probe for _, probe in read_json_lines(seed.probes("position"))]
    for panel in selection.panels:
        for arm in selection.arms:
            with atomic_file(seed.predictions(panel, arm, "position")) as stream:
                for probe in probes:
                    is_middle = 4 <= probe["position_id"] < 12
                    lost = panel == "1e4" and arm in middle_is_lost_in and is_middle
                    text = "nothing" if lost else probe["completion"]
                    stream.write(json.dumps({"samples": [text]}) + "\n")
            write_json(seed.influence(panel, arm), [4.0] * 32 + [1.0] * 400 + [4.0] * 79 + [10.0])
    return seed


def test_the_curves_are_those_of_the_answers(tmp_path: Path, study: Study) -> None:
    selection = select(study, LabConfig(home=tmp_path))
    seeds = [
        _answered_seed(study, selection, 1, ("ends", "control")),
        _answered_seed(study, selection, 2, ("ends",)),
    ]
    table = report_study(study, selection, seeds)
    lines = table.split("\n\n")[0].split("\n")
    rows = {tuple(cell.strip() for cell in line.split("|")[1:3]): line for line in lines}
    titles = {name: arm.title for name, arm in study.text.arms.items()}
    theta = "RoPE theta 1e4"
    lost = rows[theta, titles["ends"]]
    assert "| 0.500 (0.50 to 0.50) | 0.000 (0.00 to 0.00) | 1.000 (1.00 to 1.00) |" in lost
    assert f"| {2 * CONTEXTS * 16} |" in lost
    assert "| 0.750 (0.75 to 0.75) | 0.500 (" in rows[theta, titles["control"]]
    for panel, arm in ((theta, "in2"), (theta, "fixed"), ("RoPE theta 1e6", "ends")):
        assert "| 1.000 (1.00 to 1.00) | 1.000" in rows[panel, titles[arm]]
    written = (selection.home / "table.md").read_text()
    assert "mean of 2 seeds" in written
    assert study.text.question in written
    report = read_json(selection.home / "scores/position/1e4/control/report.json")
    assert report["sets"] == 2
    assert report["depths"][8]["deviation"] == 0.5  # one seed finds it, the other does not
    drawn = (selection.home / "position.svg").read_text()
    for words in ("RoPE theta 1e4", "RoPE theta 1e6", *titles.values()):
        assert words in drawn
    for name in ("position", "influence"):
        assert matplotlib.image.imread(selection.home / f"{name}.png").size > 0
    mean = (32 * 4 + 400 + 79 * 4 + 10) / 512
    values = (4 / mean, 1 / mean, 4 / mean, 10 / mean)
    shown = " | ".join(f"{value:.2f}" for value in values)
    assert f"| RoPE theta 1e4 | {titles['in2']} | {shown} |" in table


def test_what_came_of_the_expected_directions(tmp_path: Path, study: Study) -> None:
    selection = select(study, LabConfig(home=tmp_path, panels=["1e4"]))
    seeds = [
        _answered_seed(study, selection, 1, ("ends", "control")),
        _answered_seed(study, selection, 2, ("ends", "fixed")),
    ]
    scores = {"position": score_measure(study, selection, seeds, "position")}
    found = compare_all(study, scores, selection.panels)
    assert [(each.answer, each.seeds) for each in found] == [
        ("holds", 2),  # in2 is right everywhere, ends never in the middle
        ("does not hold", 1),  # fixed and control are the same, each lost in one seed
        ("does not hold", 1),  # control is right in one seed in which ends is not
        ("does not hold", 0),  # the untrained one is right everywhere here
    ]
    assert (found[0].first, found[0].second) == (1, 0)
    assert (found[0].low, found[0].high) == pytest.approx((1, 1))
    assert found[1].low < 0 < found[1].high


def test_a_choice_of_arms_leaves_out_what_they_do_not_tell(tmp_path: Path, study: Study) -> None:
    selection = select(study, LabConfig(home=tmp_path, arms=["in2"], panels=["1e6"]))
    table = report_study(study, selection, [_answered_seed(study, selection, 1, ())])
    assert "expected |" not in table
    assert "mean of 1 seed;" in (selection.home / "table.md").read_text()


def test_a_dose_curve(tmp_path: Path) -> None:
    study = load_study("dose")
    selection = select(study, LabConfig(home=tmp_path, arms=["ends", "dose0", "dose100"]))
    report_study(study, selection, [_answered_seed(study, selection, 1, ("dose0",))])
    drawn = (selection.home / "position_dose.svg").read_text()
    assert "dose (%)" in drawn
    assert "worst group" in drawn


def test_replies_that_correct_themselves(tmp_path: Path) -> None:
    study = load_study("self_correction")
    selection = select(study, LabConfig(home=tmp_path, arms=["masked"], contexts=1))
    seed = SeedFolder(tmp_path / "seed1")
    wanted = {"first": 8, "corrected": 12, "kept": 4}  # right answers of 16
    for name, measure in study.measures.items():
        write_probes(seed.probes(name), study.world, replace(measure, contexts=1), "1")
        replies = seed.replies("1e4", "masked", name)
        with atomic_file(replies) as stream:
            for _, probe in read_json_lines(seed.probes(name)):
                right, place = probe["completion"], probe["position_id"]
                text = right if place < wanted[name] else "Bako"
                if name == "first" and place in (0, 14, 15):  # spoils one, corrects two
                    text += f" no {'Bako' if place == 0 else right}"
                if name != "first":
                    text = f"no {text}"
                stream.write(json.dumps({"samples": [text]}) + "\n")
        write_judged(measure, seed.probes(name), replies, seed.predictions("1e4", "masked", name))
    table = report_study(study, selection, [seed])
    title = study.text.arms["masked"].title
    own = (
        f"| {title} | 0.500 (8 of 16) | 0.562 (9 of 16) | 0.250 (2 of 8) | 0.125 (1 of 8) |",
        f"| {title} | 0.500 (0.50 to 0.50) |",
        f"| {title} | 0.750 (0.75 to 0.75) |",
        f"| {title} | 0.250 (0.25 to 0.25) |",
    )
    assert all(line in table for line in own)


def test_named_groups_have_bars_and_a_table(tmp_path: Path) -> None:
    study = load_study("prompt_erasing")
    selection = select(study, LabConfig(home=tmp_path, arms=["erased", "direct"]))
    seed = SeedFolder(tmp_path / "seed1")
    for name, measure in study.measures.items():
        write_probes(seed.probes(name), study.world, replace(measure, contexts=4), "1")
        for arm in selection.arms:
            with atomic_file(seed.predictions("1e4", arm, name)) as stream:
                for _, probe in read_json_lines(seed.probes(name)):
                    lost = arm == "direct" and probe["position_id"] > 0
                    text = "" if lost else probe["completion"]
                    stream.write(json.dumps({"samples": [text]}) + "\n")
    table = report_study(study, selection, [seed])
    assert "| accuracy without a prompt by kind of task | stated | alias | pair |" in table
    perfect, none = "1.000 (1.00 to 1.00)", "0.000 (0.00 to 0.00)"
    assert f"| prompts erased | {perfect} | {perfect} | {perfect} |" in table
    assert f"| direct answers | {perfect} | {none} | {none} |" in table
    drawn = (tmp_path / "prompt_erasing" / "unprompted.svg").read_text()
    assert all(name in drawn for name in ("stated", "alias", "pair", "prompts erased"))


def test_differences_are_of_pairs() -> None:
    chance = np.random.default_rng(1)
    right = chance.integers(0, 2, (2, 30, 4)).astype(np.float64)
    better = np.minimum(right + 0.25, 1.25)
    difference = resampled(better) - resampled(right)
    np.testing.assert_allclose(difference, 0.25)  # the noise of the contexts cancels
    means = resampled(right)
    spread = right.reshape(60, 4).std(axis=0) / np.sqrt(60)
    np.testing.assert_allclose(means.std(axis=0), spread, rtol=0.15)
    np.testing.assert_allclose(means.mean(axis=0), right.mean(axis=(0, 1)), atol=0.01)
    assert (value_of(means, "worst") <= value_of(means, "mean")).all()
