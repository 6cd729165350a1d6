"""What all commands share: options, subcommands, exit codes, one line instead of a traceback."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from megatron_in2.choices import as_option, require_choices
from megatron_in2.commands.parser import (
    CommandParser,
    Subcommand,
    called_as,
    config_of,
    run_command,
    run_subcommand,
)
from megatron_in2.commands.synthesize_in2 import SUBCOMMANDS
from megatron_in2.errors import InputError
from tests.conftest import ROOT, RunTool

TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("*.py"))


def _code(error: BaseException | None, result: int | None = None) -> object:
    def command() -> int | None:
        if error is not None:
            raise error
        return result

    with pytest.raises(SystemExit) as ended:
        run_command(command)
    return ended.value.code


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert _code(None) == 0
    assert _code(None, 75) == 75
    assert _code(InputError("two\nlines")) == 2
    assert _code(FileNotFoundError(2, "No such file", "x.bin")) == 2
    assert _code(KeyboardInterrupt()) == 130
    errors = capsys.readouterr().err.splitlines()
    assert "error: two lines" in errors[0]
    assert "x.bin" in errors[1]


def test_a_defect_is_not_hidden() -> None:
    with pytest.raises(ValueError, match="ours"):
        run_command(lambda: int("ours"))


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_has_help_with_an_example(tool: str, run_here: RunTool) -> None:
    result = run_here(tool, "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: python tools/{tool}.py")
    assert f"    python tools/{tool}.py" in result.stdout
    assert "<class" not in result.stdout


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_refuses_unknown_options(tool: str, run_here: RunTool) -> None:
    result = run_here(tool, "--nonsense")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith(f"python tools/{tool}.py: error: ")


def test_a_tool_runs_as_a_file(run_tool: RunTool, tmp_path: Path) -> None:
    result = run_tool("plan", "--config", tmp_path / "absent.yaml", "--gpus", 8, "--gpu-type", "x")
    assert result.returncode == 2
    assert result.stderr.startswith("python tools/plan.py: error: ")
    assert "absent.yaml" in result.stderr


@dataclass(frozen=True)
class Options:
    """What is done.

    Args:
        output: where ``x`` is written, 5 % of it.
        inputs: some files.
        mode: how.
        kinds: of what.
        limit: at most
            so many.
        overwrite: replace it.
    """

    output: Path
    inputs: list[Path] = field(default_factory=list)
    mode: Literal["fast", "safe"] = "fast"
    kinds: tuple[Literal["a", "b"], ...] = ("a", "b")
    limit: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        require_choices(self, as_option)


def _read(*arguments: str) -> Options:
    parser = CommandParser("Example.")
    parser.add_options(Options)
    return config_of(parser.read(list(arguments)), Options)


def test_options_are_made_from_a_dataclass() -> None:
    assert _read("--output", "1") == Options(Path("1"))
    assert _read(
        *("--output", "x", "--inputs", "a", "b", "--mode", "safe", "--kinds", "b"),
        *("--limit", "3", "--overwrite"),
    ) == Options(Path("x"), [Path("a"), Path("b")], "safe", ("b",), 3, overwrite=True)


def test_their_help_is_the_docstrings() -> None:
    parser = CommandParser("Example.")
    parser.add_options(Options)
    text = " ".join(parser.format_help().split())
    assert "--mode {fast,safe} how (type: str, default: fast)" in text
    assert "where x is written, 5 % of it (required" in text
    assert "--limit LIMIT at most so many (type: int" in text


def test_only_some_fields_become_options() -> None:
    parser = CommandParser("Example.")
    parser.add_options(Options, "limit", "kinds")
    options = parser.read(["--limit", "2"])
    assert config_of(
        options, Options, output=Path("x"), inputs=[], mode="safe", overwrite=False
    ) == (Options(Path("x"), mode="safe", limit=2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "output"),
        (["--output", "x", "--mode", "slow"], "--mode slow: use fast or safe"),
        (["--output", "x", "--kinds", "a", "c"], "--kinds c: use a or b"),
        (["--output", "x", "--limit", "many"], 'limit".*many'),
    ],
)
def test_wrong_options_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError) as refused:
        _read(*arguments)
    assert message.split(".*")[0] in str(refused.value)
    assert message.split(".*")[-1] in str(refused.value)


@dataclass(frozen=True)
class Section:
    """A section.

    Args:
        mode: how.
    """

    mode: Literal["", "fast", "safe"] = ""


@dataclass(frozen=True)
class FileConfig:
    """Read from a file."""

    section: Section = field(default_factory=Section)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", bytes(range(256)), b"x: 1\x00", b"x: [" * 999]
)
def test_a_file_that_is_no_yaml_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(content)
    parser = CommandParser(None, FileConfig)
    with pytest.raises(InputError, match=r"config"):
        parser.read(["--config", str(tmp_path / "bad.yaml")])


@pytest.mark.parametrize("way", ["file", "option"])
def test_a_wrong_choice_of_a_file_is_named_as_everywhere(way: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("section: {mode: slow}" if way == "file" else "section: {}")
    option = ["--section.mode", "slow"] if way == "option" else []
    with pytest.raises(InputError) as refused:
        CommandParser("Example.", FileConfig).read(["--config", str(path), *option])
    assert str(refused.value) == "section.mode='slow': use fast, safe or leave it empty"


Run = Callable[..., Any]


@pytest.fixture
def run() -> Run:
    """A command with two subcommands; returns which ran, with what."""
    ran = []

    def parser(option: str) -> CommandParser:
        made = CommandParser("%(prog)s one")
        made.add_argument(option, type=int, default=0)
        return made

    subcommands = {
        "first": Subcommand("the first", lambda: parser("--depth"), ran.append),
        "second": Subcommand("the second", lambda: parser("--width"), ran.append),
    }

    def run(*arguments: str, default: str | None = None) -> Any:
        ran.clear()
        run_subcommand("Two.", subcommands, arguments, default)
        return ran[0]

    return run


def test_a_subcommand_runs_with_its_options(run: Run) -> None:
    assert run("first", "--depth", "2").depth == 2
    assert run("second").width == 0


def test_the_default_runs_where_none_is_named(run: Run) -> None:
    assert run("--depth", "3", default="first").depth == 3
    assert run(default="first").depth == 0
    assert run("second", "--width", "3", default="first").width == 3


def test_an_option_of_another_subcommand_is_refused(run: Run) -> None:
    message = "--width is an option of second, not of first: leave it out"
    with pytest.raises(InputError, match=message):
        run("first", "--width=2")
    with pytest.raises(InputError, match=message):
        run("--width", "2", default="first")


@pytest.mark.parametrize("arguments", [[], ["third"], ["first", "--depht", "1"]])
def test_wrong_subcommands_and_options_are_refused(arguments: list[str], run: Run) -> None:
    with pytest.raises(InputError, match=r"first.*second|--depht"):
        run(*arguments)


@pytest.mark.parametrize("name", [each for each in SUBCOMMANDS if each != "samples"])
def test_the_examples_of_a_subcommand_name_it(name: str) -> None:
    """Without its name the default subcommand would run."""
    described = SUBCOMMANDS[name].parser().description or ""
    assert set(re.findall(rf"{re.escape(called_as())} (\S+)", described)) == {name}
