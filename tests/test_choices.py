"""Closed choices: every ``Literal`` field of every config, set in code or read from a file."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from megatron_in2.choices import as_field, as_option, choices_in, require_choices
from megatron_in2.data.packing.encoding.designs import DESIGNS, DesignName
from megatron_in2.errors import InputError
from megatron_in2.evaluation.probing.tasks import TASKS, TaskName
from megatron_in2.lab.worlds.registry import WORLDS, WorldName


@dataclass(frozen=True)
class Inner:
    mode: Literal["", "fast", "safe"] = ""


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    kinds: tuple[Literal["a", "b"], ...] = ("a",)
    only_kind: Literal["a", "b"] | None = None
    count: int = 3


def test_choices_are_found_inside_other_types() -> None:
    assert choices_in(Literal["x", "y"]) == ("x", "y")
    assert choices_in(list[Literal["x"]]) == ("x",)
    assert choices_in(Literal["x", "y"] | None) == ("x", "y")
    assert choices_in(int) == choices_in(list[str]) == ()


def test_right_values_pass() -> None:
    require_choices(Outer())
    require_choices(Outer(Inner("safe"), ("b", "a"), "b"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Outer(Inner("slow")), "inner.mode='slow': use fast, safe or leave it empty"),  # type: ignore[arg-type]
        (Outer(kinds=("a", "c")), "kinds='c': use a or b"),  # type: ignore[arg-type]
        (Outer(only_kind="c"), "only_kind='c': use a or b"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_value_is_named_with_its_field_and_the_choices(config: Outer, message: str) -> None:
    with pytest.raises(InputError) as refused:
        require_choices(config)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("names", "known"),
    [
        (DesignName, DESIGNS),
        (TaskName, TASKS),
        (WorldName, WORLDS),
    ],
)
def test_names_and_what_they_name_agree(names: object, known: dict[str, object]) -> None:
    assert choices_in(names) == tuple(known)


def test_options_are_named_as_they_are_typed() -> None:
    with pytest.raises(InputError, match=r"^--only-kind c: use a or b$"):
        require_choices(Outer(only_kind="c"), as_option)  # type: ignore[arg-type]
    assert as_field("a.b", 3) == "a.b=3"
