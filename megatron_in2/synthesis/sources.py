"""Reads records of local files and of Hugging Face data sets, one by one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.files import read_json_lines

JSON_SUFFIXES = (".jsonl", ".json", ".gz", ".zst")


def is_text_file(path: Path) -> bool:
    """Whether a file's name says that it is neither JSON lines nor parquet."""
    return not path.name.endswith(JSON_SUFFIXES) and path.suffix != ".parquet"


def file_records(
    path: Path, columns: list[str] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, record) of a JSON lines or parquet file.

    Args:
        path: the file.
        columns: of parquet, what to read; None reads all. JSON records come whole.

    Raises:
        InputError: an unreadable file, line or column.
    """
    if path.suffix == ".parquet":
        yield from _parquet_records(path, columns)
    else:
        yield from read_json_lines(path)


def hub_records(
    section: str, dataset: str, subset: str | None, split: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stream (place, record) of a Hugging Face data set, or of a local directory of one.

    Raises:
        InputError: it cannot be opened or read; the message names the config's ``section``.
    """
    import datasets

    try:
        rows = datasets.load_dataset(dataset, subset, split=split, streaming=True)
        for number, record in enumerate(rows):
            yield f"{dataset}/{split}:row {number}", record
    except Exception as error:  # the hub client's errors share no base class
        raise InputError(
            f"{section}.dataset={dataset!r} subset={subset!r} split={split!r} "
            f"cannot be read: {error}"
        ) from error


def field_of(record: dict[str, Any], field: str, where: str, setting: str) -> Any:
    """Return a record's field.

    Raises:
        InputError: there is none; the message names the ``setting`` to change.
    """
    if field not in record:
        raise InputError(f"{where}: no field {field!r} (it has {', '.join(record)}); set {setting}")
    return record[field]


def _parquet_records(path: Path, columns: list[str] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow.lib
    import pyarrow.parquet

    if not path.is_file():
        raise InputError(f"{path} does not exist")
    try:
        table = pyarrow.parquet.ParquetFile(path)
        known = set(table.schema_arrow.names)
        wanted = None if columns is None else [name for name in columns if name in known]
        row = 0
        for batch in table.iter_batches(batch_size=1024, columns=wanted or None):
            for record in batch.to_pylist():
                row += 1
                yield f"{path}:row {row}", record
    except pyarrow.lib.ArrowException as error:
        raise InputError(f"{path}: not readable as parquet: {error}") from error
