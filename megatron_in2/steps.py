"""Runs of many steps: each is done once, and reused while nothing it depends on has changed."""

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
    """One step of a run.

    Args:
        title: what it does, for the progress line.
        outputs: what it leaves behind.
        run: does it.
        continues: an interrupted run of it goes on by itself; else its outputs are removed and it
            starts again from nothing.
    """

    title: str
    outputs: tuple[Path, ...]
    run: Callable[[], None]
    continues: bool = False


def run_steps(steps: Sequence[Step], stamps: Path, fingerprint: str) -> None:
    """Run every step that is not done yet, in order.

    Each step leaves a stamp with the fingerprint it ran under and its seconds. A step that starts
    again from nothing removes the stamps of all that follow.

    Args:
        steps: in order.
        stamps: folder for the stamps.
        fingerprint: of everything the steps depend on; another one makes all run again.
    """
    for number, step in enumerate(steps, start=1):
        stamp = _stamp(stamps, number)
        print(f"\n[{number}/{len(steps)}] {step.title}", flush=True)
        known = read_json(stamp) if stamp.is_file() else {}
        is_ours = known.get("fingerprint") == fingerprint
        if is_ours and "seconds" in known and all(output.exists() for output in step.outputs):
            print("    reused: it is done already", flush=True)
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
    """Return how long each done step took, by its title."""
    return {
        step.title: read_json(_stamp(stamps, number))["seconds"]
        for number, step in enumerate(steps, start=1)
    }


def package_files() -> list[Path]:
    """Return the code of this package, and the data that it carries."""
    files = Path(__file__).parent.rglob("*")
    return [path for path in files if path.suffix in (".py", ".yaml", ".txt")]


def fingerprint_of(paths: Iterable[Path], *settings: str) -> str:
    """Hash files, settings and the Python version: what a run's steps depend on."""
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
