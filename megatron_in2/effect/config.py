"""The options of the experiment."""

from dataclasses import dataclass
from pathlib import Path

from megatron_in2.choices import as_option, require_choices
from megatron_in2.effect.arms import ARMS, RUNS, THETAS, ArmName, ThetaName
from megatron_in2.errors import InputError


@dataclass(frozen=True)
class EffectConfig:
    """Which parts of the experiment run, and where.

    Args:
        seeds: number of seeds; each has its own data, weights and probes.
        contexts: probe contexts of a seed, which is the number of probes in a bin.
        scale: share of the phases' steps and samples; values below 1 only test that all steps run.
        arms: curves to draw; only the runs that they need are trained.
        thetas: RoPE thetas, one panel of the figure each.
        home: folder for all files.
    """

    seeds: int = 3
    contexts: int = 100
    scale: float = 1.0
    arms: tuple[ArmName, ...] = tuple(ARMS)
    thetas: tuple[ThetaName, ...] = tuple(THETAS)
    home: Path = Path("runs/effect")

    def __post_init__(self) -> None:
        if min(self.seeds, self.contexts) < 1 or not 0 < self.scale <= 1:
            raise InputError(
                f"--seeds {self.seeds} --contexts {self.contexts} --scale {self.scale}: "
                "need at least 1 seed, at least 1 context, and a scale above 0 and up to 1"
            )
        for name, wanted in (("arms", self.arms), ("thetas", self.thetas)):
            if not wanted:
                raise InputError(f"--{name} is empty: name at least one")
        require_choices(self, as_option)

    @property
    def runs(self) -> list[str]:
        """The runs that the arms need; each starts from an earlier one in this list."""
        needed: set[str] = set(self.arms)
        for name in reversed(RUNS):
            if name in needed:
                needed.add(RUNS[name].start)
        return [name for name in RUNS if name in needed]
