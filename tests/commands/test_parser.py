"""How commands end: exit codes, one line, no traceback; a defect of ours keeps its traceback."""

from pathlib import Path

import pytest

from megatron_in2.commands.parser import run_command
from megatron_in2.errors import InputError
from tests.conftest import ROOT, RunTool


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


@pytest.mark.parametrize("tool", sorted(path.stem for path in (ROOT / "tools").glob("*.py")))
def test_every_tool_has_help_with_an_example(tool: str, run_tool: RunTool) -> None:
    result = run_tool(tool, "--help")
    assert result.returncode == 0, result.stderr
    assert f"python tools/{tool}.py" in result.stdout


@pytest.mark.parametrize("tool", sorted(path.stem for path in (ROOT / "tools").glob("*.py")))
def test_every_tool_refuses_unknown_options(tool: str, run_tool: RunTool, tmp_path: Path) -> None:
    result = run_tool(tool, "--nonsense")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
