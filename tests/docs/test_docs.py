"""The documentation is true: generated tables, commands, options, links, paths, field names."""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from megatron_in2.__main__ import COMMANDS
from megatron_in2.synthesis.config import SynthesisConfig
from megatron_in2.training.config import TrainConfig
from tests.conftest import ROOT
from tests.docs import generated
from tests.docs.pages import Command, anchors, code_names, commands, links
from tests.docs.parsers import command_parsers, tool_of

README_LINES = 150
PACKAGE = ROOT / "megatron_in2"
TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("*.py"))
FOLDERS = ("megatron_in2", "tests", "tools", "configs", "slurm", "docs")
OWN_FILES = {"slurm/site.env"}  # a user writes them
WITH_DEFAULT = ("preprocess_in2", "synthesize_in2")  # their first subcommand need not be named
PATH = re.compile(r"[\w./{},*-]+")
SOURCE_FILE = re.compile(r"\.(py|yaml|txt|sh)$")
# Options of sbatch, cp, pip, apptainer, lm_eval and torchfrtrace, which the pages name too.
FOREIGN_OPTIONS = {
    "--dependency", "--distribution", "--gpus-per-node", "--metadata", "--no-build-isolation",
    "--no-kill", "--no-requeue", "--nodelist", "--nodes",
    "--ntasks-per-node", "--nv", "--prefix", "--reflink", "--signal", "--tasks", "--time",
}  # fmt: skip


@pytest.mark.parametrize("page", sorted(generated.DOCS.glob("*.md")), ids=lambda path: path.name)
def test_generated_tables_are_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert generated.refresh(text) == text, "run make docs"


def test_a_changed_table_is_found() -> None:
    text = (generated.DOCS / "configuration.md").read_text(encoding="utf-8")
    changed = text.replace("| `runtime.seed` | `1234` |", "| `runtime.seed` | `4321` |")
    assert generated.refresh(changed) == text != changed


def test_the_readme_is_a_front_door() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index, page


@pytest.mark.parametrize("tool", TOOLS)
def test_every_command_has_a_section(tool: str) -> None:
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    assert f"## `tools/{tool}.py`\n" in text
    name = next(name for name, each in COMMANDS.items() if tool_of(each.module) == tool)
    assert f"`in2 {name}`" in text
    if any(generated.options_of(parser) for parser in command_parsers(tool).values()):
        assert f"<!-- generated: options {tool} -->" in text


def test_the_tree_names_every_package() -> None:
    tree = (ROOT / "docs/structure.md").read_text(encoding="utf-8")
    for path in PACKAGE.iterdir():
        if any(path.glob("*.py")):  # a folder of the past may hold caches still
            assert f"  {path.name}/" in tree, path
        elif path.suffix == ".py" and path.name != "__init__.py":
            assert f"  {path.name}" in tree, path


@pytest.mark.parametrize(
    ("page", "target"), links(), ids=lambda value: getattr(value, "name", value)
)
def test_every_link_resolves(page: Path, target: str) -> None:
    name, _, anchor = target.partition("#")
    path = (page.parent / name).resolve() if name else page
    assert path.exists(), f"{page.name}: {target}"
    if anchor:
        assert anchor in anchors(path), f"{page.name}: {target}"


def test_every_path_exists() -> None:
    missing = [f"{page.name}: {name}" for page, name in code_names() if not _path_exists(name)]
    assert not missing


def _path_exists(name: str) -> bool:
    """Whether a name is no path of this repository, or one that exists."""
    if not PATH.fullmatch(name) or "/" not in name or name in OWN_FILES:
        return True
    first = name.partition("/")[0]
    if first in FOLDERS:
        return any(any(ROOT.glob(each)) for each in _alternatives(name.rstrip("/")))
    if (PACKAGE / first).is_dir() and SOURCE_FILE.search(name):
        return (PACKAGE / name).exists()
    return True


def _alternatives(name: str) -> list[str]:
    """Return the paths that a name with ``{a,b}`` means."""
    if found := re.search(r"\{([^}]*)\}", name):
        return [name.replace(found[0], each) for each in found[1].split(",")]
    return [name]


def test_paths_that_do_not_exist_are_found() -> None:
    assert _path_exists("tools/train.py")
    assert _path_exists("configs/film7b*.yaml")
    assert not _path_exists("tools/trains.py")
    assert not _path_exists("training/step/batches.py")


def _field_names(config: type, prefix: str = "") -> Iterator[str]:
    for item in fields(config):  # type: ignore[arg-type]
        yield f"{prefix}{item.name}"
        if is_dataclass(item.default_factory):
            yield from _field_names(item.default_factory, f"{prefix}{item.name}.")  # type: ignore[arg-type]


FIELDS = {*_field_names(TrainConfig), *_field_names(SynthesisConfig)}
SECTIONS = {name.partition(".")[0] for name in FIELDS if "." in name}


def test_every_named_field_exists() -> None:
    unknown = [
        f"{page.name}: {code}"
        for page, code in code_names()
        for name in re.findall(r"(?<![\w/.])[a-z_]+\.[a-z_0-9]+(?=[ =:]|$)", code)
        if name.partition(".")[0] in SECTIONS
        and name not in FIELDS
        and not re.search(r"\.(md|bin|model|json|safetensors)$", name)
    ]
    assert not unknown


ALL_OPTIONS = {
    option
    for tool in TOOLS
    for parser in command_parsers(tool).values()
    for option in parser._option_string_actions
}


def test_every_named_option_exists() -> None:
    unknown = [
        f"{page.name}: {code}"
        for page, code in code_names()
        for option in re.findall(r"(?:^| )(--[a-z][\w.-]*)", code)
        if option not in ALL_OPTIONS | FOREIGN_OPTIONS and not _is_of_a_script(option)
    ]
    assert not unknown


def _is_of_a_script(option: str) -> bool:
    scripts = (ROOT / "tools/benchmarks").glob("*.py")
    return any(f'"{option}"' in script.read_text(encoding="utf-8") for script in scripts)


@pytest.mark.parametrize("command", commands(), ids=str)
def test_every_shown_command_exists(command: Command) -> None:
    assert not list(_mistakes(command.words))


def test_wrong_commands_are_found() -> None:
    for wrong in (
        "python tools/trains.py --config configs/tiny.yaml",
        "python tools/train.py --config configs/none.yaml",
        "python tools/train.py --config configs/tiny.yaml --nprocs 2",
        "python tools/train.py --config configs/tiny.yaml --optimizer.rate 2",
        "python tools/train.py --nproc 2",
        "python tools/probe.py builds --pieces P --output probes",
        "in2 trains --config configs/tiny.yaml",
        "make quickstarts",
        "sbatch slurm/film7b.sh --optimizer.rate 2",
        "pytest tests/test_nothing.py",
    ):
        assert list(_mistakes(tuple(wrong.split()))), wrong


def _mistakes(words: tuple[str, ...]) -> Iterator[str]:
    """Yield what is wrong with a command: a file, command, option or target that does not exist."""
    for word in words:
        if word.startswith(tuple(f"{folder}/" for folder in FOLDERS)) and not _path_exists(word):
            yield f"{word} does not exist"
    if words[0] == "make":
        yield from _make_mistakes(words[1:])
    for place, word in enumerate(words):
        rest = words[place + 1 :]
        if word == "in2":
            if rest[0] in COMMANDS:
                yield from _option_mistakes(tool_of(COMMANDS[rest[0]].module), rest[1:])
            elif not rest[0].startswith("-"):
                yield f"in2 has no command {rest[0]}"
        elif word.startswith("megatron_in2.commands."):
            yield from _option_mistakes(word.rpartition(".")[2], rest)
        elif word in ("slurm/film7b.sh", "slurm/pipeline.sh"):
            yield from (each for each in _option_mistakes("train", rest) if "required" not in each)
        elif word.startswith("tools/benchmarks/"):
            source = (ROOT / word).read_text(encoding="utf-8") if _path_exists(word) else ""
            options = (each.strip("[]") for each in rest if each.strip("[").startswith("--"))
            yield from (f"{each} of {word}" for each in options if f'"{each}"' not in source)
        elif word.startswith("tools/") and Path(word).stem in TOOLS:
            yield from _option_mistakes(Path(word).stem, rest)


def _make_mistakes(words: tuple[str, ...]) -> Iterator[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        if "=" not in word and not re.search(rf"^{word}:", text, re.MULTILINE):
            yield f"make has no target {word}"


def _option_mistakes(tool: str, words: tuple[str, ...]) -> Iterator[str]:
    """Yield the options that a command does not have, and the required ones that are missing."""
    parsers = command_parsers(tool)
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    if "--help" in given:
        return
    name = words[0] if words and words[0] in parsers else next(iter(parsers))
    if "" not in parsers and tool not in WITH_DEFAULT and words[:1] != (name,):
        yield f"{tool}.py has no subcommand {words[:1]}"
        return
    parser = parsers[name]
    known = parser._option_string_actions
    yield from (f"{tool}.py has no option {option}" for option in given if option not in known)
    if "..." not in words:
        required = (option for option, action in known.items() if action.required)
        yield from (f"{each} is required" for each in required if each not in given)
