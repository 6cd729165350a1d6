"""Rotary theta and the scaling of its frequencies, in both forms of a ``config.json``.

transformers 4 writes ``rope_theta`` and ``rope_scaling``, transformers 5 one ``rope_parameters``.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from megatron_in2.architectures.config_file import ConfigFile
from megatron_in2.errors import InputError

RopeType = Literal["default", "llama3", "yarn"]

DEFAULT_THETA = 1e4  # of transformers, for a config without theta
THETA, SCALING = "rope_theta", "rope_scaling"  # of transformers 4
PARAMETERS = "rope_parameters"  # of transformers 5
_ORIGINAL = "original_max_position_embeddings"
# Fields that a config may have besides type and theta; any other field is refused by name.
_KNOWN = {
    "default": {"partial_rotary_factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", _ORIGINAL, "partial_rotary_factor"},
    "yarn": {
        *("factor", "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim"),
        *("truncate", _ORIGINAL, "partial_rotary_factor"),
    },
}


@dataclass(frozen=True)
class RopeScaling:
    """Scaling of rotary frequencies beyond the positions of the pretraining.

    ``llama3`` is the rule of Llama 3.1, ``yarn`` that of YaRN (arXiv 2309.00071), both as
    in transformers. Fields of other types are not used.

    Args:
        type: default (unscaled) | llama3 | yarn.
        factor: divisor of low frequencies.
        original_positions: positions of the pretraining, ``original_max_position_embeddings``.
        low_freq_factor: of llama3: waves longer than original_positions / this are scaled.
        high_freq_factor: of llama3: waves shorter than original_positions / this are not.
        beta_fast: of yarn: frequencies of more rotations than this are not scaled.
        beta_slow: of yarn: frequencies of fewer rotations than this are scaled.
        attention_factor: of yarn: factor of queries and keys; null for 0.1 ln(factor) + 1.
        truncate: of yarn: round the limits between the two outwards to whole dimensions.
    """

    type: RopeType = "default"
    factor: float = 1.0
    original_positions: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True

    @property
    def attention_scale(self) -> float:
        """Factor of rotated queries and of rotated keys."""
        if self.type != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0

    def validate(self) -> None:
        """Check the values that the type uses.

        Raises:
            InputError: naming the field, its value and the remedy.
        """
        if self.type == "default":
            return
        name = "model.rope_scaling"
        if self.factor < 1:
            raise InputError(f"{name}.factor={self.factor}: must be 1 or more")
        if self.original_positions < 1:
            raise InputError(
                f"{name}.original_positions={self.original_positions}: type {self.type} needs the "
                "positions of the pretraining"
            )
        if self.type == "llama3" and not 0 < self.low_freq_factor < self.high_freq_factor:
            raise InputError(
                f"{name}.low_freq_factor={self.low_freq_factor}: must be above 0 and below "
                f"high_freq_factor={self.high_freq_factor}"
            )
        if self.type == "yarn" and not 0 < self.beta_slow < self.beta_fast:
            raise InputError(
                f"{name}.beta_slow={self.beta_slow}: must be above 0 and below "
                f"beta_fast={self.beta_fast}"
            )


def read_rope(file: ConfigFile) -> tuple[float, RopeScaling]:
    """Return theta and scaling of a ``config.json``.

    Raises:
        InputError: a type or field that cannot be trained here, or two values of theta.
    """
    # As in transformers 5: rope_scaling wins where there are both.
    name = SCALING if file.get(SCALING) else PARAMETERS
    rotary = file.section(name)
    kind = rotary.get("rope_type", rotary.get("type", "default"))
    if kind not in _KNOWN:
        raise InputError(
            f"{file.path}: {name} has rope_type={kind!r}: only {', '.join(_KNOWN)} are trained"
        )
    for field in sorted(set(rotary.values) - _KNOWN[kind] - {"rope_type", "type", THETA}):
        raise rotary.refusal(field, f"{name} of type {kind} is not trained with this field")
    for holder in (file, rotary):
        if holder.number("partial_rotary_factor", 1.0) != 1.0:
            raise holder.refusal("partial_rotary_factor", "only whole heads are rotated here")
    return _theta(file, name), _scaling(rotary, kind, file.size("max_position_embeddings"))


def write_rope(theta: float, scaling: RopeScaling) -> dict[str, Any]:
    """Return the fields of transformers 4, which transformers 5 reads too."""
    fields: dict[str, Any] = {THETA: theta}
    if scaling.type != "default":
        fields[SCALING] = _scaling_fields(scaling)
    return fields


def update_rope(source: ConfigFile, theta: float, scaling: RopeScaling) -> dict[str, Any]:
    """Return a source's fields with these values, in the form that the source uses.

    Unchanged fields are kept. A source in the form of transformers 5 also gets the fields of
    transformers 4, which ignores ``rope_parameters`` silently and would compute a different model.
    """
    fields = dict(source.values)
    newer, older = dict(fields.get(PARAMETERS) or {}), dict(fields.get(SCALING) or {})
    old_theta, old_scaling = read_rope(source)
    is_same_scaling = scaling == old_scaling
    if newer and (theta, scaling) != (old_theta, old_scaling):
        # Where a source has both, rope_scaling is the one that counts.
        newer = newer if is_same_scaling and not older else _scaling_fields(scaling)
        fields[PARAMETERS] = newer | {THETA: theta}
    if newer or theta != old_theta:
        fields[THETA] = theta
    if older and is_same_scaling:
        fields[SCALING] = older | ({THETA: theta} if THETA in older else {})
    elif scaling.type != "default":
        same = newer if newer and is_same_scaling else _scaling_fields(scaling)
        fields[SCALING] = {name: value for name, value in same.items() if name != THETA}
    elif older:
        fields[SCALING] = None
    return fields


def _theta(file: ConfigFile, name: str) -> float:
    inner = file.section(name).get(THETA)
    if inner is not None and file.number(THETA, inner) != inner:
        raise file.refusal(THETA, f"{name} has {THETA}={inner!r}: make them equal")
    return file.section(name).number(THETA, file.number(THETA, DEFAULT_THETA))


def _scaling(rotary: ConfigFile, kind: RopeType, positions: int) -> RopeScaling:
    if kind == "default":
        return RopeScaling()
    if kind == "llama3":
        return RopeScaling(
            type=kind,
            factor=rotary.number("factor"),
            original_positions=rotary.size(_ORIGINAL),
            low_freq_factor=rotary.number("low_freq_factor"),
            high_freq_factor=rotary.number("high_freq_factor"),
        )
    return RopeScaling(
        type=kind,
        factor=rotary.number("factor"),
        original_positions=rotary.size(_ORIGINAL, positions),
        beta_fast=rotary.number("beta_fast", 32.0),
        beta_slow=rotary.number("beta_slow", 1.0),
        attention_factor=_attention_factor(rotary),
        truncate=rotary.flag("truncate", True),
    )


def _attention_factor(rotary: ConfigFile) -> float | None:
    """Return the factor in a config, or the one from its two mscales; None for the usual one."""
    if rotary.get("attention_factor") is not None:
        return rotary.number("attention_factor")
    upper, lower = rotary.number("mscale", 0.0), rotary.number("mscale_all_dim", 0.0)
    if not upper or not lower:
        return None
    growth = 0.1 * math.log(max(rotary.number("factor"), 1.0))
    return (upper * growth + 1.0) / (lower * growth + 1.0)


def _scaling_fields(scaling: RopeScaling) -> dict[str, Any]:
    if scaling.type == "default":
        return {"rope_type": scaling.type}
    fields: dict[str, Any] = {
        "rope_type": scaling.type,
        "factor": scaling.factor,
        _ORIGINAL: scaling.original_positions,
    }
    names = {
        "llama3": ["low_freq_factor", "high_freq_factor"],
        "yarn": ["beta_fast", "beta_slow", "attention_factor", "truncate"],
    }
    values = {name: getattr(scaling, name) for name in names[scaling.type]}
    return fields | {name: value for name, value in values.items() if value is not None}
