"""A study: one YAML file with a question, its arms, what is held equal, and what is expected."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from megatron_in2.choices import as_field
from megatron_in2.errors import InputError
from megatron_in2.lab.reading import below, made_of, read_yaml, require_known, typed
from megatron_in2.lab.worlds.base import Dataset, Measure, SmallWorld
from megatron_in2.lab.worlds.registry import WORLDS, WorldName
from megatron_in2.training.config import TrainConfig

FOLDER = Path(__file__).parent
STUDIES = FOLDER / "studies"
PhaseName = Literal["copy", "short", "medium", "long", "more", "untrained"]
FigureName = Literal["groups", "dose"]
ValueName = Literal["mean", "worst"]
Relation = Literal["above", "level"]
# What the laboratory itself sets for each run.
OWN_OPTIONS = (
    *("data.train", "data.tokenizer_model", "data.seq_length", "model.vocab_size"),
    *("checkpoint.dir", "checkpoint.init_from", "runtime.seed"),
)
_NAME = re.compile(r"\w[\w.-]*")  # names are names of folders, too
_COLOUR = re.compile(r"#[0-9A-Fa-f]{6}")


@dataclass(frozen=True)
class Run:
    """One training run.

    Args:
        phase: its settings, a file of ``phases/``.
        data: the dataset.
        beside: a second dataset, which has the other half of the rows.
        turns: rows of both are in every step, or, if given, one dataset's alone for that share of
            the steps, then the other's, so many turns in all; ``data`` has the first.
        start: the run whose last checkpoint it starts from; random weights where not given.
        options: fields of the training configuration that differ from the phase's.
    """

    phase: PhaseName
    data: str
    beside: str = ""
    turns: int = 0
    start: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """One way to train that is compared with others.

    Args:
        title: for tables and figures.
        colour: of its curve, such as ``#2E7D32``.
        run: its last training run; the one with the arm's name where not given.
        dose: its place on the axis of a dose curve, in percent.
    """

    title: str
    colour: str
    run: str = ""
    dose: float | None = None


@dataclass(frozen=True)
class Panel:
    """What is varied beside the arms: every run of the study is done under each panel's options."""

    title: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """One expected direction, written before the study ran.

    ``above`` holds if ``first`` exceeds ``second`` by more than ``by``, ``level`` if both differ by
    less than ``by``; for accuracies from 0 to 1.

    Args:
        why: the reason for expecting it.
        measure: the set of probes.
        value: mean of the groups, or the worst one.
        first: an arm.
        relation: of ``first`` to ``second``: above | level.
        second: another arm.
        by: the margin.
        panel: the panel in which it is expected; in all where not given.
    """

    why: str
    measure: str
    value: ValueName
    first: str
    relation: Relation
    second: str
    by: float
    panel: str = ""


@dataclass(frozen=True)
class StudyText:
    """The fields of a study's YAML file; those that only its world can read are plain values."""

    question: str
    expected: tuple[Comparison, ...]
    held_equal: str
    not_shown: str
    world: WorldName
    seeds: int
    measures: Mapping[str, Any]
    datasets: Mapping[str, Any]
    runs: Mapping[str, Run]
    arms: Mapping[str, Arm]
    panels: Mapping[str, Panel] = field(default_factory=lambda: {"all": Panel("all")})
    figure: FigureName = "groups"
    influence: str = ""


@dataclass(frozen=True)
class Study:
    """A checked study.

    Args:
        name: of its file.
        text: the other fields of the file.
        world: what its samples and probes are made of.
        datasets: of the training runs, by name.
        measures: sets of probes, by name.
    """

    name: str
    text: StudyText
    world: SmallWorld
    datasets: Mapping[str, Dataset]
    measures: Mapping[str, Measure]

    def run_of(self, arm: str) -> str:
        """Return the last training run of an arm."""
        return self.text.arms[arm].run or arm

    def datasets_of(self, run: str) -> list[str]:
        """Return the names of a run's datasets."""
        both = self.text.runs[run].data, self.text.runs[run].beside
        return [name for name in both if name]

    def runs_of(self, arms: tuple[str, ...]) -> list[str]:
        """Return the runs that arms need; each starts from an earlier one in this list."""
        needed = {self.run_of(arm) for arm in arms}
        for name in reversed(list(self.text.runs)):
            if name in needed:
                needed.add(self.text.runs[name].start)
                needed |= {self.datasets[each].drawn_from for each in self.datasets_of(name)}
        return [name for name in self.text.runs if name in needed]


def study_names() -> list[str]:
    """Return the names of the studies in the package."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def load_study(name: str) -> Study:
    """Read a study and check all of it.

    Args:
        name: of a study in the package, or a YAML file.

    Raises:
        InputError: no such study, or one line with file, field, value and remedy.
    """
    known = study_names()
    path = Path(name) if name.endswith((".yaml", ".yml")) else STUDIES / f"{name}.yaml"
    if path.parent == STUDIES:
        require_known(name, known, f"study {name}")
    return study_of(read_yaml(path), path)


def study_of(values: Any, path: Path) -> Study:
    """Return the study that a file's values make; see :func:`load_study`."""
    shown = path.name
    text = made_of(StudyText, values, shown)
    world = WORLDS[text.world]
    study = Study(
        name=path.stem,
        text=text,
        world=world,
        datasets=_made_by_world(world.dataset, text.datasets, below(shown, "datasets")),
        measures=_made_by_world(world.measure, text.measures, below(shown, "measures")),
    )
    for section in ("datasets", "measures", "runs", "arms", "panels"):
        _check_names(getattr(text, section), below(shown, section))
    if text.seeds < 1:
        raise InputError(f"{below(shown, 'seeds')}={text.seeds}: must be 1 or more")
    _check_runs(study, shown)
    _check_arms(text, shown)
    _check_expected(text, shown)
    return study


def _made_by_world(kind: type[Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {name: made_of(kind, each, below(where, name)) for name, each in values.items()}


def _check_names(section: Mapping[str, object], where: str) -> None:
    if not section:
        raise InputError(f"{where} is empty: give at least one")
    for name in section:
        if not _NAME.fullmatch(name):
            raise InputError(f"{below(where, name)}: names have letters, digits and . _ - only")


def _check_runs(study: Study, shown: str) -> None:
    """Check that runs name datasets, earlier runs, and fields of the training configuration."""
    text, earlier = study.text, dict[str, Run]()
    for name, run in text.runs.items():
        where = below(shown, f"runs.{name}")
        require_known(run.data, text.datasets, as_field(below(where, "data"), run.data))
        if run.beside:
            require_known(run.beside, text.datasets, as_field(below(where, "beside"), run.beside))
        if run.turns < 0 or run.turns == 1 or (run.turns and not run.beside):
            raise InputError(f"{where}.turns={run.turns}: 2 or more, of data and beside")
        for dataset in study.datasets_of(name):
            if drawn_from := study.datasets[dataset].drawn_from:
                require_known(
                    drawn_from, earlier, f"{where}: {dataset} with attempts_of={drawn_from}"
                )
        if run.start:
            require_known(run.start, earlier, as_field(below(where, "start"), run.start))
        _check_options(run.options, below(where, "options"))
        earlier[name] = run
    for name, panel in text.panels.items():
        _check_options(panel.options, below(shown, f"panels.{name}.options"))


def _check_options(options: Mapping[str, Any], where: str) -> None:
    """Check names and types; what values are possible together, the training checks itself."""
    known = _training_fields()
    for name, value in options.items():
        require_known(name, known, below(where, name))
        if name in OWN_OPTIONS:
            raise InputError(f"{below(where, name)} is set for every run: leave it out")
        typed(known[name], value, below(where, name))


def _training_fields(config: type = TrainConfig, prefix: str = "") -> dict[str, Any]:
    """Return the type of every field of the training configuration, by its dotted name."""
    hints = get_type_hints(config)
    found: dict[str, Any] = {}
    for item in fields(config):
        inner, name = hints[item.name], f"{prefix}{item.name}"
        found |= _training_fields(inner, f"{name}.") if is_dataclass(inner) else {name: inner}  # type: ignore[arg-type]
    return found


def _check_arms(text: StudyText, shown: str) -> None:
    for name, arm in text.arms.items():
        where = below(shown, f"arms.{name}")
        run = arm.run or name
        require_known(run, text.runs, as_field(below(where, "run"), run))
        if not _COLOUR.fullmatch(arm.colour):
            raise InputError(f"{where}.colour={arm.colour!r}: write it as '#2E7D32'")
    doses = [arm.dose for arm in text.arms.values() if arm.dose is not None]
    if text.figure == "dose" and len(doses) < 2:
        raise InputError(f"{below(shown, 'figure')}=dose needs two arms with a dose")


def _check_expected(text: StudyText, shown: str) -> None:
    if not text.expected:
        raise InputError(f"{below(shown, 'expected')} is empty: write down what will be seen")
    for place, each in enumerate(text.expected):
        where = below(shown, f"expected[{place}]")
        known = {"measure": text.measures, "first": text.arms, "second": text.arms}
        for name, names in {**known, **({"panel": text.panels} if each.panel else {})}.items():
            value = getattr(each, name)
            require_known(value, names, as_field(below(where, name), value))
        if each.first == each.second:
            raise InputError(f"{where} compares {each.first} with itself: name two arms")
        if not 0 <= each.by < 1:
            raise InputError(f"{where}.by={each.by}: an accuracy difference from 0 to below 1")
        if each.relation == "level" and not each.by:
            raise InputError(f"{where}.by=0: no two arms are exactly level: give a margin")
