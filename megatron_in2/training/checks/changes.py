"""Compares a run's configuration with the one that the step it resumes was saved with."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_in2.checkpoint.folder import read_config
from megatron_in2.errors import InputError
from megatron_in2.training.config import TrainConfig

# Fields that do not change the shape of any weight, but what the model computes or is trained for.
FUNCTION_FIELDS = (
    "model.rope_theta",
    "model.rope_scaling",
    "optimizer.normalisation",
    "runtime.dtype",
    "runtime.fp8",
)


@dataclass(frozen=True)
class Change:
    """A field that differs.

    Args:
        name: ``section.field``.
        saved: its value in the step.
        now: its value in the run.
    """

    name: str
    saved: object
    now: object

    def __str__(self) -> str:
        return f"{self.name}={self.now} (saved with {self.saved})"

    @property
    def is_function(self) -> bool:
        """Whether the model is another function with it."""
        return any(
            self.name == each or self.name.startswith(f"{each}.") for each in FUNCTION_FIELDS
        )


def changes_since(step: Path, config: TrainConfig) -> list[Change]:
    """Return every field that differs, in the order of the configuration.

    Fields that the step's version did not have are left out.
    """
    return list(_differences("", read_config(step), asdict(config)))


def require_same_function(config: TrainConfig, step: Path) -> None:
    """Refuse to go on with a model that computes something else.

    Raises:
        InputError: naming the fields, unless ``checkpoint.allow_changed_model`` is true.
    """
    found = [str(change) for change in changes_since(step, config) if change.is_function]
    if found and not config.checkpoint.allow_changed_model:
        raise InputError(
            f"{step} is to be resumed with another {' and '.join(found)}, which makes it another "
            "model: use what it was saved with, or checkpoint.allow_changed_model=true"
        )


def _differences(prefix: str, saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    found = []
    for name, value in now.items():
        if name not in saved:
            continue
        if isinstance(value, Mapping) and isinstance(saved[name], Mapping):
            found += _differences(f"{prefix}{name}.", saved[name], value)
        elif value != saved[name] and str(value) != str(saved[name]):  # YAML: 1e-06 is a string
            found.append(Change(f"{prefix}{name}", saved[name], value))
    return found
