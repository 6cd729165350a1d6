"""The options of a study's run."""

from dataclasses import dataclass, field
from pathlib import Path

from megatron_in2.errors import InputError
from megatron_in2.lab.reading import require_known
from megatron_in2.lab.study import Study


@dataclass(frozen=True)
class LabConfig:
    """Which parts of a study run, and where.

    Args:
        seeds: number of seeds, each with its own data, weights and probes; 0 takes the study's.
        contexts: probe contexts of a seed, which is the number of probes in a group; 0 takes the
            study's.
        scale: share of the phases' steps and samples; values below 1 only test that all steps run.
        arms: arms to compare, all where not given; only the runs that they need are trained.
        panels: panels of the figure, all where not given.
        processes: ranks of each training; 1 is faster where other programs share the cores.
        home: folder of all studies; each has its own in it.
    """

    seeds: int = 0
    contexts: int = 0
    scale: float = 1.0
    arms: list[str] = field(default_factory=list)
    panels: list[str] = field(default_factory=list)
    processes: int = 2
    home: Path = Path("runs/lab")

    def __post_init__(self) -> None:
        if min(self.seeds, self.contexts) < 0 or not 0 < self.scale <= 1:
            raise InputError(
                f"--seeds {self.seeds} --contexts {self.contexts} --scale {self.scale}: "
                "numbers are 0 or more, and the scale is above 0 and up to 1"
            )
        if self.processes not in (1, 2):
            raise InputError(f"--processes {self.processes}: use 1 or 2, which share 2 rows a step")


@dataclass(frozen=True)
class Selection:
    """What of a study runs.

    Args:
        seeds: their number.
        contexts: of each measure; 0 takes the study's.
        scale: share of steps and samples.
        processes: ranks of each training.
        arms: names, in the study's order.
        panels: names, in the study's order.
        runs: training runs that the arms need, in order.
        home: the study's folder.
    """

    seeds: int
    contexts: int
    scale: float
    processes: int
    arms: tuple[str, ...]
    panels: tuple[str, ...]
    runs: tuple[str, ...]
    home: Path


def select(study: Study, config: LabConfig) -> Selection:
    """Return what of a study runs.

    Raises:
        InputError: the study has no such arm or panel.
    """
    for name in config.arms:
        require_known(name, study.text.arms, f"--arms {name}")
    for name in config.panels:
        require_known(name, study.text.panels, f"--panels {name}")
    arms = tuple(name for name in study.text.arms if not config.arms or name in config.arms)
    panels = (name for name in study.text.panels if not config.panels or name in config.panels)
    return Selection(
        seeds=config.seeds or study.text.seeds,
        contexts=config.contexts,
        scale=config.scale,
        processes=config.processes,
        arms=arms,
        panels=tuple(panels),
        runs=tuple(study.runs_of(arms)),
        home=config.home / study.name,
    )
