"""Imports go down in the order that CONTRIBUTING.md lists, in no circle, and none is hidden."""

import ast
import graphlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "megatron_in2"
GLOBAL_STATE = {"get_cuda_rng_tracker", "model_parallel_cuda_manual_seed", "mpu", "parallel_state"}


@dataclass(frozen=True)
class Layer:
    """One name of the list: how far down its line is, and whether Megatron-Core is allowed."""

    line: int
    name: str
    takes_megatron: bool


def read_order(text: str) -> dict[str, Layer]:
    """Read the list of CONTRIBUTING.md; a folder's dotted name, or a module's, is the key."""
    listed = re.search(r"## Import order.*?```text\n(.*?)```", text, re.DOTALL)
    assert listed
    order = {}
    for number, line in enumerate(listed[1].splitlines()):
        for name in line.replace("+", "").split():
            order[name.replace("/", ".")] = Layer(number, name, "+" in line)
    return order


def modules_of(package: Path) -> dict[str, ast.Module]:
    """Parse every module; the key is its name below the package, ``data.packed.order``."""
    return {
        ".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__"): (
            ast.parse(path.read_text(encoding="utf-8"))
        )
        for path in sorted(package.rglob("*.py"))
    }


def imported_by(tree: ast.Module) -> Iterator[str]:
    """Yield all dotted names that a module imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(modules: dict[str, ast.Module], package: str) -> dict[str, set[str]]:
    """Return the modules of the package that each module imports."""
    graph: dict[str, set[str]] = {}
    for name, tree in modules.items():
        graph[name] = set()
        for full in imported_by(tree):
            target = full.removeprefix(f"{package}.")
            while target != full and target not in modules and "." in target:
                target = target.rpartition(".")[0]
            if target in modules and target != name:
                graph[name].add(target)
    return graph


def layer_of(module: str, order: dict[str, Layer]) -> Layer | None:
    """Return the layer of the longest listed name that the module is or lies in."""
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((order[name] for name in names if name in order), None)


def problems_of(package: Path, order: dict[str, Layer]) -> list[str]:
    """Return what is wrong with a package's imports, one line each."""
    modules = modules_of(package)
    modules.pop("__init__", None)  # it holds the version only
    graph = own_imports(modules, package.name)
    problems = []
    for module, targets in graph.items():
        layer = layer_of(module, order)
        if layer is None:
            # An empty __init__ above listed folders, such as data's, belongs to none.
            if any(not isinstance(node, ast.Expr) for node in modules[module].body):
                problems.append(f"{module} is not in the list of CONTRIBUTING.md")
            continue
        for target in targets:
            below = layer_of(target, order)
            if below and below != layer and below.line >= layer.line:
                problems.append(f"{module} imports {target}, which is above it")
        imports_megatron = any(
            name.split(".")[0] == "megatron" for name in imported_by(modules[module])
        )
        if imports_megatron and not layer.takes_megatron:
            problems.append(f"{module} imports Megatron-Core")
        problems += [f"{module} {found}" for found in _hidden(modules[module], layer)]
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        problems.append(f"cycle: {' -> '.join(error.args[1])}")
    return problems


def _hidden(tree: ast.Module, layer: Layer) -> Iterator[str]:
    """Yield what couples a module to others without an import."""
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            names_tools = node.value == "tools" or "tools/" in node.value
            if names_tools and id(node) not in documentation:
                yield f"names files of tools/ in line {node.lineno}"
        elif isinstance(node, ast.Attribute) and node.attr == "chdir":
            yield f"changes the working directory in line {node.lineno}"
        names = {getattr(node, "attr", None), getattr(node, "id", None)}
        if names & GLOBAL_STATE and layer.name != "parallel":
            yield f"touches Megatron-Core's global state in line {node.lineno}"


def test_the_package_keeps_the_order() -> None:
    graph = own_imports(modules_of(PACKAGE), PACKAGE.name)
    assert sum(map(len, graph.values())) > len(graph) > 100  # the imports are found at all
    order = read_order((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert problems_of(PACKAGE, order) == []
    unused = [name for name in order if not (PACKAGE / name.replace(".", "/")).is_dir()]
    assert all((PACKAGE / f"{name}.py").is_file() for name in unused), unused


ORDER = "## Import order\n```text\nlow\nmiddle/a +\nmiddle/b\nhigh\n```"


@pytest.mark.parametrize(
    ("module", "code", "problem"),
    [
        ("low", "from own.high import x", "low imports high, which is above it"),
        ("low", "def f():\n    import own.high", "low imports high, which is above it"),
        ("middle/a/one", "from own.middle.b import two", "imports middle.b.two, which is above it"),
        ("low", "import megatron.core", "low imports Megatron-Core"),
        ("middle/b/two", "from megatron.core import parallel_state", "imports Megatron-Core"),
        (
            "middle/a/one",
            "from megatron import core\ncore.parallel_state",
            "global state in line 2",
        ),
        ("high", "import subprocess\nsubprocess.run(['tools/train.py'])", "tools/ in line 2"),
        ("high", "name = 1\nf'tools/{name}.py'", "tools/ in line 2"),
        ("high", "import os\nos.chdir('/')", "working directory in line 2"),
        ("other", "x = 1", "other is not in the list"),
        ("middle/b/two", "from own.middle.b import three", "cycle: "),
    ],
)
def test_each_fault_is_found(tmp_path: Path, module: str, code: str, problem: str) -> None:
    files = {
        "low": "",
        "middle/__init__": '"""Nothing."""',
        "middle/a/one": '"""Of tools/."""\nfrom own.low import x\nimport megatron.core',
        "middle/b/two": "from own.middle.a.one import x",
        "middle/b/three": "from own.middle.b import two",
        "high": "def f():\n    from own.middle.b.two import x",
    }
    package = tmp_path / "own"
    for name, text in files.items():
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert problems_of(package, read_order(ORDER)) == []
    (package / f"{module}.py").write_text(code)
    found = problems_of(package, read_order(ORDER))
    assert any(problem in each for each in found), found
