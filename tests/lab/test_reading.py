"""Strict reading of YAML into dataclasses: every mistake is one line that names its field."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from megatron_in2.errors import InputError
from megatron_in2.lab.reading import made_of, read_yaml


@dataclass(frozen=True)
class Leaf:
    length: int
    share: float = 0.5
    mode: Literal["fast", "safe"] = "fast"
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.length < 1:
            raise InputError(f"length={self.length}: must be 1 or more")


@dataclass(frozen=True)
class Tree:
    title: str
    leaves: Mapping[str, Leaf] = field(default_factory=dict)
    listed: tuple[Leaf, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


def read(text: str) -> Tree:
    return made_of(Tree, yaml.safe_load(text), "x.yaml")


def test_values_of_every_kind() -> None:
    assert read(
        "{title: T, leaves: {a: {length: 1, share: 1, limit: 3}}, listed: [{length: 2}], "
        "options: {b: 1.5}}"
    ) == Tree("T", {"a": Leaf(1, 1.0, "fast", 3)}, (Leaf(2),), {"b": 1.5})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", r"^x\.yaml must be fields with values, not \[1\]$"),
        ("{}", r"^x\.yaml: title is missing$"),
        ("{title: 3}", r"^x\.yaml: title must be text, not 3$"),
        ("{title: ''}", r"^x\.yaml: title is empty$"),
        ("{title: T, leafs: {}}", r"^x\.yaml: leafs is not known: did you mean leaves\?$"),
        ("{title: T, zzz: 1}", r"zzz is not known: use title, leaves, listed, options$"),
        ("{title: T, leaves: {a: 3}}", r"^x\.yaml: leaves\.a must be fields with values"),
        ("{title: T, leaves: 3}", r"^x\.yaml: leaves must be names with values, not 3$"),
        ("{title: T, leaves: {a: {lenght: 3}}}", r"leaves\.a\.lenght is not known: did you mean l"),
        ("{title: T, leaves: {a: {length: 1.5}}}", r"leaves\.a\.length must be a whole number, no"),
        ("{title: T, leaves: {a: {length: true}}}", r"leaves\.a\.length must be a whole number"),
        ("{title: T, leaves: {a: {length: 0}}}", r"^x\.yaml: leaves\.a: length=0: must be 1 or m"),
        ("{title: T, listed: [{length: 1, mode: x}]}", r"listed\[0\]\.mode='x': use fast or safe$"),
        ("{title: T, listed: {}}", r"^x\.yaml: listed must be a list, not \{\}$"),
    ],
)
def test_a_mistake_is_one_line_with_its_field(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        read(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "is not readable as YAML"),
        (b"\xff", "is not readable as YAML"),
        (b"a: {b: 1, b: 2}", "field 'b' is given twice.*line 1"),
    ],
)
def test_a_file_that_is_no_such_yaml(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(InputError, match=message) as refused:
        read_yaml(tmp_path / "x.yaml")
    assert "\n" not in str(refused.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.yaml does not exist"):
        read_yaml(tmp_path / "x.yaml")
