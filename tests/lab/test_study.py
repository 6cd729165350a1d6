"""Studies are whole before they run: the package's own, and mistakes in one's own."""

from pathlib import Path
from typing import Any

import pytest

from megatron_in2.commands.parser import CommandParser, config_of
from megatron_in2.errors import InputError
from megatron_in2.lab.command import main
from megatron_in2.lab.config import LabConfig, select
from megatron_in2.lab.reading import read_yaml
from megatron_in2.lab.seed.places import SeedFolder
from megatron_in2.lab.seed.plan import steps_of_seed
from megatron_in2.lab.seed.training_run import PHASES, training_arguments, turn_at
from megatron_in2.lab.study import STUDIES, Study, load_study, study_names, study_of
from megatron_in2.training.config import TrainConfig


def _changed(fields: str, value: Any) -> Study:
    """Return the study placement with one field changed, or removed by None."""
    values = read_yaml(STUDIES / "placement.yaml")
    *path, last = fields.split("/")
    inner = values
    for name in path:
        inner = inner[int(name)] if name.isdigit() else inner[name]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return study_of(values, Path("x.yaml"))


@pytest.mark.parametrize(
    ("fields", "value", "message"),
    [
        ("question", None, "x.yaml: question is missing"),
        ("expected", [], "x.yaml: expected is empty: write down what will be seen"),
        ("seeds", 0, "x.yaml: seeds=0: must be 1 or more"),
        ("world", "fact", "x.yaml: world='fact': use "),
        ("datasets/copy/token", 3, "datasets.copy.token is not known: did you mean tokens?"),
        ("datasets/copy/samples", 0, "x.yaml: datasets.copy: samples=0: must be 1 or more"),
        ("measures/position/bin", 3, "measures.position.bin is not known: did you mean bins?"),
        ("runs/copy/data", "cpy", "runs.copy.data='cpy' is not known: did you mean copy?"),
        ("runs/copy/beside", "shrt", "runs.copy.beside='shrt' is not known: did you mean short?"),
        ("runs/copy/turns", 4, "runs.copy.turns=4: 2 or more, of data and beside"),
        ("runs/copy/start", "short", "runs.copy.start='short' is not known"),
        ("runs/copy/phase", "cop", "runs.copy.phase='cop': use copy, short"),
        (
            "runs/copy/options",
            {"optimizer.learning_rate": 1},
            "runs.copy.options.optimizer.learning_rate is not known",
        ),
        ("runs/copy/options", {"data.train": "x"}, "options.data.train is set for every run"),
        ("runs/copy/options", {"optimizer.lr": [1]}, "optimizer.lr must be a number, not [1]"),
        ("panels/1e4/options", {"model.theta": 1}, "panels.1e4.options.model.theta is not known"),
        ("arms/in2/run", "in", "arms.in2.run='in' is not known: did you mean in2?"),
        ("arms/in2/colour", "green", "arms.in2.colour='green': write it as '#2E7D32'"),
        ("arms/a b", {"title": "t", "colour": "#000000"}, "x.yaml: arms.a b: names have letters"),
        ("figure", "dose", "x.yaml: figure=dose needs two arms with a dose"),
        ("expected/0/first", "in3", "expected[0].first='in3' is not known: did you mean in2?"),
        ("expected/0/second", "in2", "x.yaml: expected[0] compares in2 with itself"),
        ("expected/0/measure", "depth", "expected[0].measure='depth' is not known: use position"),
        ("expected/0/panel", "1e5", "expected[0].panel='1e5' is not known: did you mean"),
        ("expected/0/by", 1.5, "x.yaml: expected[0].by=1.5: an accuracy difference"),
        ("runs/copy/options", {"schedule.steps": "9"}, "steps must be a whole number, not '9'"),
        ("runs/copy/options", {"optimizer.normalisation": "row"}, "='row': use token or sample"),
        ("expected/2/by", 0, "x.yaml: expected[2].by=0: no two arms are exactly level"),
        ("expected/0/by", -1, "expected[0].by=-1.0"),
    ],
)
def test_a_mistake_is_named(fields: str, value: Any, message: str) -> None:
    with pytest.raises(InputError) as refused:
        _changed(fields, value)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", study_names())
def test_a_study_of_the_package_sees_almost_no_sample_twice(name: str) -> None:
    study = load_study(name)
    batch = read_yaml(PHASES / "model.yaml")["schedule"]["global_batch_rows"]
    for run in study.text.runs.values():
        dataset = study.datasets[run.data]
        steps = run.options.get(
            "schedule.steps", read_yaml(PHASES / f"{run.phase}.yaml")["schedule"]["steps"]
        )
        assert steps * batch <= 1.01 * dataset.samples * dataset.sample_tokens / dataset.row_tokens
    assert study.text.question.endswith("?")
    assert len(set(study.text.arms)) > 1


@pytest.mark.parametrize("name", ["placement", "loss"])
def test_the_trainer_takes_every_kind_of_run(name: str) -> None:
    study = load_study(name)
    selection, home = select(study, LabConfig()), SeedFolder(Path("seed1"))
    # What starts from a checkpoint only adds its path; placement has every phase.
    kinds = {
        (run.phase, study.datasets[run.data].row_tokens, str(run.options)): run_name
        for run_name, run in study.text.runs.items()
        if run.options or name == "placement"
    }
    panel = selection.panels[-1]
    assert len(kinds) > 1
    for run_name in kinds.values():
        arguments = training_arguments(study, selection, 3, home, panel, run_name)
        without_start = [str(each) for each in arguments if "init_from" not in str(each)]
        config = config_of(CommandParser(None, TrainConfig).read(without_start), TrainConfig)
        config.validate(2)
        run = study.text.runs[run_name]
        assert config.data.seq_length == study.datasets[run.data].row_tokens
        assert config.optimizer.normalisation == run.options.get("optimizer.normalisation", "token")
        assert config.model.rope_theta == study.text.panels[panel].options["model.rope_theta"]
        assert config.runtime.seed == 3


def test_two_datasets_of_a_run_are_a_blend() -> None:
    study, home = load_study("mixing"), SeedFolder(Path("seed1"))
    selection = select(study, LabConfig(scale=0.1))
    arguments = training_arguments(study, selection, 1, home, "1e4", "even")
    long = "0.5 seed1/data/long-questions 0.5 seed1/data/long-copies"
    assert f"--data.train={long}" in arguments
    assert "--schedule.steps=30" in arguments
    assert study.datasets_of("even") == ["long-questions", "long-copies"]


@pytest.mark.parametrize(("total", "turns"), [(300, 6), (15, 6), (7, 2)])
def test_turns_share_all_steps(total: int, turns: int) -> None:
    done, sizes = 0, []
    while done < total:
        turn, left = turn_at(done, total, turns)
        assert turn == len(sizes)
        assert turn_at(done + left - 1, total, turns) == (turn, 1)  # after an interruption, too
        sizes.append(left)
        done += left
    assert len(sizes) == turns
    assert max(sizes) - min(sizes) <= 1


def test_an_arm_trains_only_what_it_needs() -> None:
    study = load_study("placement")
    assert study.runs_of(("in2",)) == ["copy", "short", "in2-medium", "in2"]
    assert study.runs_of(("control",)) == ["copy", "short", "ends-medium", "ends", "control"]
    assert study.runs_of(tuple(study.text.arms)) == list(study.text.runs)


def test_a_run_on_attempts_needs_the_run_that_makes_them() -> None:
    values = read_yaml(STUDIES / "self_correction.yaml")
    del values["runs"]["masked"]["start"]
    study = study_of(values, Path("x.yaml"))
    assert study.runs_of(("masked",)) == ["copy", "short", "ends-medium", "ends", "masked"]
    values["datasets"]["masked"]["attempts_of"] = "unmasked"
    with pytest.raises(InputError, match="masked with attempts_of=unmasked is not known"):
        study_of(values, Path("x.yaml"))


def test_attempts_are_drawn_before_what_is_trained_on_them() -> None:
    study = load_study("self_correction")
    selection = select(study, LabConfig(arms=["masked", "bare"]))
    titles = [step.title for step in steps_of_seed(study, selection, 1, SeedFolder(Path("seed1")))]
    drawing = titles.index("seed 1: attempts of ends -> masked, bare")
    assert titles[drawing - 1].startswith("seed 1: ends, long phase on long-ends")
    trained_on_attempts = "seed 1: masked, more phase on masked, from verify"
    assert trained_on_attempts in titles[drawing:]


def test_a_selection_keeps_the_order_of_the_study() -> None:
    study = load_study("placement")
    selected = select(study, LabConfig(arms=["control", "in2"], panels=["1e6"], seeds=7))
    assert (selected.arms, selected.panels, selected.seeds) == (("in2", "control"), ("1e6",), 7)
    everything = select(study, LabConfig())
    assert everything.arms == tuple(study.text.arms)
    assert everything.seeds == study.text.seeds == 3
    assert everything.home == Path("runs/lab/placement")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seeds", -1, "--seeds -1"),
        ("contexts", -1, "--contexts -1"),
        ("scale", 1.5, "--scale 1.5"),
        ("processes", 3, "--processes 3: use 1 or 2"),
        ("arms", ["in3"], "--arms in3 is not known: did you mean in2"),
        ("panels", ["1e5"], "--panels 1e5 is not known"),
    ],
)
def test_impossible_options_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        select(load_study("placement"), LabConfig(**{field: value}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a study: .*placement"),
        (["placment"], "study placment is not known: did you mean placement"),
        (["none.yaml"], r"none\.yaml does not exist"),
    ],
)
def test_a_study_that_does_not_exist(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        main(arguments)


def test_the_studies_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--list"])
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == study_names()
    assert all(line.endswith("?") for line in shown)
