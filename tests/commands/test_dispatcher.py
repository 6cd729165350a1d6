"""``in2``: the commands under one name; how processes are named and started."""

import subprocess
import sys
from pathlib import Path

import pytest

from megatron_in2 import __main__ as dispatcher
from megatron_in2 import __version__
from megatron_in2.commands.start import command_line, run_command_line
from tests.conftest import ROOT


def _in2(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/in2", *arguments])
    with pytest.raises(SystemExit) as ended:
        dispatcher.main()
    return ended.value.code


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_the_commands_in_the_order_of_the_data_flow(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _in2(monkeypatch, *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: in2 COMMAND [OPTIONS]"
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert listed[:3] == ["synthesize", "preprocess", "inspect"]
    assert listed.index("train") < listed.index("convert") < listed.index("probe")
    assert listed == list(dispatcher.COMMANDS)


def test_every_tool_is_a_command() -> None:
    modules = {
        command.module.removeprefix("commands.").removesuffix(".command")
        for command in dispatcher.COMMANDS.values()
    }
    assert modules == {path.stem for path in (ROOT / "tools").glob("*.py")}


def test_a_wrong_command_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _in2(monkeypatch, "pack") == 2
    error = capsys.readouterr().err
    assert error.startswith("in2: error: 'pack' is no command: use synthesize, preprocess, ")


def test_errors_name_the_command_as_it_was_called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _in2(monkeypatch, "convert", "hf-to-megatron", "--dtype", "float32") == 2
    assert capsys.readouterr().err == (
        "in2 convert: error: --dtype is an option of megatron-to-hf, not of hf-to-megatron: "
        "leave it out\n"
    )


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _in2(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"megatron_in2 {__version__}\n"


def test_python_m_is_the_same_and_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "megatron_in2", "plan", "--nonsense"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("python -m megatron_in2 plan: error: ")


def test_steps_are_started_as_modules_and_their_exit_code_ends_the_run(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert command_line("plan", "--gpus", 8) == [
        *(sys.executable, "-m", "megatron_in2.commands.plan", "--gpus", "8")
    ]
    with pytest.raises(SystemExit) as ended:
        run_command_line("plan", "--nonsense")
    assert ended.value.code == 2
    output, errors = capfd.readouterr()
    assert output == "    $ python -m megatron_in2.commands.plan --nonsense\n"
    assert errors.startswith("python -m megatron_in2.commands.plan: error: ")
