"""Archives hold all code and data, and an installed wheel runs in any directory."""

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from megatron_in2 import __version__
from megatron_in2.__main__ import COMMANDS
from tests.conftest import ROOT

FOLDERS = ("configs", "docs", "megatron_in2", "slurm", "tests", "tools")
TOP_FILES = (
    *("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "Makefile"),
    *("README.md", "constraints.txt", "pyproject.toml", "setup.py"),
)
BUILD = """
import sys
from setuptools import build_meta
folder = sys.argv[1]  # setuptools replaces sys.argv
build_meta.build_sdist(folder)
build_meta.build_wheel(folder)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source archive and a wheel, built without a network from a copy.

    From a copy, because setuptools writes beside the sources.
    """
    folder = tmp_path_factory.mktemp("built")
    for name in TOP_FILES:
        shutil.copy(ROOT / name, folder)
    ignored = shutil.ignore_patterns("__pycache__", "site.env")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    command = [sys.executable, "-c", BUILD, str(folder / "dist")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "dist"


@pytest.fixture(scope="module")
def installed(built: Path) -> Path:
    """A directory with the contents of the wheel."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(built / "site")
    return built / "site"


def test_a_source_archive_holds_the_whole_repository(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    copy = built.parent
    wanted = {str(path.relative_to(copy)) for name in FOLDERS for path in (copy / name).rglob("*")}
    assert {"docs/README.md", "tests/version1/train.yaml"} <= wanted  # the copy is whole
    assert {*TOP_FILES, *wanted} <= held


def test_a_wheel_holds_every_file_of_the_package(installed: Path) -> None:
    def files(root: Path) -> set[str]:
        found = (path.relative_to(root) for path in (root / "megatron_in2").rglob("*"))
        return {str(path) for path in found if path.suffix and "__pycache__" not in path.parts}

    documents = {
        name for name in files(ROOT) if name.endswith(".md")
    }  # they are for the repository
    assert files(installed) == files(ROOT) - documents
    data = {Path(name).name for name in files(installed) if not name.endswith(".py")}
    assert {"gpus.yaml", "prices.yaml", "verify.txt", "film_csqa.yaml", "py.typed"} <= data
    assert {"synthesis.yaml", "train.yaml", "copy.yaml"} <= data


def test_its_metadata_name_the_command_and_the_licence(installed: Path) -> None:
    (info,) = installed.glob("*.dist-info")
    assert info.name == f"megatron_in2-{__version__}.dist-info"
    assert "in2 = megatron_in2.__main__:main" in (info / "entry_points.txt").read_text()
    assert "License-Expression: Apache-2.0" in (info / "METADATA").read_text()
    assert (info / "licenses" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_its_commands_run_in_an_empty_directory(installed: Path, tmp_path: Path) -> None:
    """One process for all: each command's help, without torch; then a plan, from package data."""
    (tmp_path / "film7b.yaml").write_bytes((ROOT / "configs" / "film7b.yaml").read_bytes())
    (tmp_path / "empty").mkdir()
    script = f"""
import sys
sys.path[:0] = [{str(installed)!r}]
import megatron_in2.__main__ as commands
assert commands.__file__.startswith({str(installed)!r})
for name in commands.COMMANDS:
    sys.argv = ["/bin/in2", name, "--help"]
    try:
        commands.main()
    except SystemExit as ended:
        assert ended.code == 0, name
assert "torch" not in sys.modules
sys.argv = "/bin/in2 plan --config ../film7b.yaml --gpus 128 --gpu-type a100-80g --formulas".split()
commands.main()
"""
    command = [sys.executable, "-I", "-c", script]
    done = subprocess.run(
        command, cwd=tmp_path / "empty", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"usage: in2 {name}" in done.stdout
        assert f"    in2 {name}" in done.stdout  # an example
    assert "128 x a100-80g, 12,812 steps" in done.stdout
    assert not list((tmp_path / "empty").iterdir())


def test_one_version_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_what_is_needed_is_pinned() -> None:
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = metadata["optional-dependencies"]
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in pins if "==" in line}
    for requirement in (*metadata["dependencies"], *extras["dev"], *extras["evaluation"]):
        name = requirement.partition(">")[0].partition("[")[0].lower().replace("_", "-")
        assert name in pinned, requirement
