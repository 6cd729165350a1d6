"""Runs a sequence of steps; a finished step is reused until something it depends on changes."""

import hashlib
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_in2.files import read_json, write_json


@dataclass(frozen=True)
class Step:
    """One step of a sequence.

    Args:
        title: what it does, for the progress line.
        outputs: files and folders that it writes.
        run: the function that does it.
        continues: whether ``run`` continues its own interrupted work. Otherwise the outputs of an
            interrupted step are removed before it runs again.
    """

    title: str
    outputs: tuple[Path, ...]
    run: Callable[[], None]
    continues: bool = False


def run_steps(steps: Sequence[Step], stamps: Path, fingerprint: str) -> None:
    """Run every step that is not done yet, in order.

    Each finished step has a stamp with its fingerprint and seconds. A step that starts from the
    beginning removes the stamps of all later steps.

    Args:
        steps: in order.
        stamps: folder for the stamps.
        fingerprint: of everything the steps depend on; if it changes, all steps run again.
    """
    for number, step in enumerate(steps, start=1):
        stamp = _stamp(stamps, number)
        print(f"\n[{number}/{len(steps)}] {step.title}", flush=True)
        known = read_json(stamp) if stamp.is_file() else {}
        is_ours = known.get("fingerprint") == fingerprint
        if is_ours and "seconds" in known and all(output.exists() for output in step.outputs):
            print("    reused: already done", flush=True)
            continue
        if not (is_ours and step.continues):
            for later in range(number, len(steps) + 1):
                _stamp(stamps, later).unlink(missing_ok=True)
            for output in step.outputs:
                _remove(output)
        write_json(stamp, {"fingerprint": fingerprint})
        before = time.monotonic()
        step.run()
        seconds = time.monotonic() - before
        write_json(stamp, {"fingerprint": fingerprint, "seconds": round(seconds, 1)})
        print(f"    done in {seconds:.0f} s", flush=True)


def step_seconds(steps: Sequence[Step], stamps: Path) -> dict[str, float]:
    """Return the seconds of each finished step, by title."""
    return {
        step.title: read_json(_stamp(stamps, number))["seconds"]
        for number, step in enumerate(steps, start=1)
    }


def package_files() -> list[Path]:
    """Return the files of this package: code and package data."""
    files = Path(__file__).parent.rglob("*")
    return [path for path in files if path.suffix in (".py", ".yaml", ".txt")]


def fingerprint_of(paths: Iterable[Path], *settings: str) -> str:
    """Return a hash of files, settings and the Python version, on which the steps depend."""
    digest = hashlib.sha256(sys.version.encode())
    for setting in settings:
        digest.update(setting.encode() + b"\0")
    for path in sorted(paths):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _stamp(stamps: Path, number: int) -> Path:
    return stamps / f"{number}.json"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
