"""docs/extending.md, followed to the letter in a copy of the repository."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.recipes import Recipe, follow, read_recipes

RECIPES = read_recipes(ROOT / "docs/extending.md")
COPIED = ("megatron_in2", "tests", "docs", "tools", "configs", "slurm")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which every recipe is followed."""
    root = tmp_path_factory.mktemp("extended")
    for name in COPIED:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, root)
    for recipe in RECIPES:
        follow(recipe, root)
    _run(f"{sys.executable} -m tests.docs.generated", root)  # as make docs does
    return root


def _run(command: str, root: Path) -> None:
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "PATH": binaries},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.title)
def test_a_recipe_and_its_tests_work(recipe: Recipe, extended: Path) -> None:
    for command in recipe.commands:
        _run(command, extended)


@pytest.mark.slow
def test_the_extended_package_passes_every_check(extended: Path) -> None:
    _run("ruff check . && ruff format --check . && mypy", extended)
    _run("python -m pytest -q tests/test_imports.py tests/docs -m 'not slow'", extended)


def test_a_change_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("one = 1\none = 1\n")
    changed = Recipe("changed", {}, (("a.py", "two = 2\n", "two = 3\n"),), ())
    with pytest.raises(ValueError, match=r"a\.py has 0 times"):
        follow(changed, tmp_path)
    with pytest.raises(ValueError, match=r"a\.py has 2 times"):
        follow(Recipe("twice", {}, (("a.py", "one = 1\n", ""),), ()), tmp_path)
    with pytest.raises(ValueError, match="exists already"):
        follow(Recipe("again", {"a.py": "x = 1\n"}, (), ()), tmp_path)
