"""Real English prose that every Python installation carries: a corpus without a download."""

import ast
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_Documented = tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]
MIN_CHARACTERS = 400  # shorter docstrings say too little to be asked about


def python_texts() -> Iterator[tuple[str, str]]:
    """Yield (place, text): the language reference's topics, then the library's docstrings.

    Docstrings are read from source without importing anything. One text is a module's docstring
    with its functions', or one class's with its methods', each behind the name it describes.
    """
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield f"pydoc_data.topics:{name}", topics[name]
    library = Path(sysconfig.get_path("stdlib"))
    for module in sorted(sys.stdlib_module_names):
        for source in _sources(library, module):
            for text in _docstrings(source):
                if len(text) >= MIN_CHARACTERS:
                    yield str(source), text


def _sources(library: Path, module: str) -> list[Path]:
    package = library / module
    if package.is_dir():
        return sorted(path for path in package.rglob("*.py") if "test" not in str(path))
    source = package.with_suffix(".py")
    return [source] if source.is_file() else []


def _docstrings(source: Path) -> Iterator[str]:
    try:
        module = ast.parse(source.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):  # a few library files are bad on purpose
        return
    functions: list[_Documented] = []
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            methods = [child for child in node.body if isinstance(child, _FUNCTIONS)]
            yield _joined([(node.name, node), *((child.name, child) for child in methods)])
        elif isinstance(node, _FUNCTIONS):
            functions.append((node.name, node))
    yield _joined([(source.stem, module), *functions])


def _joined(nodes: list[_Documented]) -> str:
    described = ((name, ast.get_docstring(node)) for name, node in nodes)
    return "\n".join(f"{name}: {text}" for name, text in described if text)
