"""Commands without the seconds that a process takes to start."""

import runpy
import subprocess
import sys

import pytest

from tests.conftest import ROOT, RunTool
from tests.evaluation.conftest import tiny_model  # noqa: F401 - a fixture


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunTool:
    """Run a file of tools/ as ``python tools/NAME.py`` does, but in this process."""

    def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        script = str(ROOT / "tools" / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(script, run_name="__main__")
        printed = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(sys.argv, code, printed.out, printed.err)

    return run
