"""The Hugging Face files that a model came with, kept in every checkpoint that descends from it.

They let an export give back every field of the source's ``config.json`` and its
``generation_config.json``. A model that was drawn fresh has none, nor has a checkpoint of
version 1.
"""

from pathlib import Path

from megatron_in2.files import atomic_file

CONFIG = "config.json"
GENERATION = "generation_config.json"
FOLDER = "huggingface"  # in a step

SourceFiles = dict[str, str]
"""Text of each file by its name."""


def read_source(folder: Path) -> SourceFiles:
    """Read the files of a Hugging Face directory."""
    paths = [folder / name for name in (CONFIG, GENERATION)]
    return {path.name: path.read_text(encoding="utf-8") for path in paths if path.is_file()}


def source_of_step(step: Path) -> SourceFiles:
    """Read the files that a step keeps; none where it has none."""
    return read_source(step / FOLDER)


def keep_source(step: Path, files: SourceFiles) -> None:
    """Write the files into a step."""
    for name, text in files.items():
        with atomic_file(step / FOLDER / name) as stream:
            stream.write(text)
