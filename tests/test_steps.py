"""Sequences of steps: finished steps are reused, interrupted ones continue or start again."""

from pathlib import Path

import pytest

from megatron_in2.steps import Step, fingerprint_of, run_steps, step_seconds


class Runner:
    """Two steps that write files, and note each time they run; the first may be interrupted."""

    def __init__(self, folder: Path, continues: bool = False) -> None:
        self.folder = folder
        self.ran: list[str] = []
        self.is_interrupted = False
        self.steps = [
            Step("first", (folder / "first",), self._first, continues),
            Step("second", (folder / "second",), lambda: self._write("second")),
        ]

    def go(self, fingerprint: str = "same") -> list[str]:
        self.ran = []
        run_steps(self.steps, self.folder / ".steps", fingerprint)
        return self.ran

    def _first(self) -> None:
        self._write("first")
        if self.is_interrupted:
            raise KeyboardInterrupt

    def _write(self, name: str) -> None:
        self.ran.append(name)
        with open(self.folder / name, "a") as stream:
            stream.write("x")


def test_finished_steps_are_reused(tmp_path: Path) -> None:
    runner = Runner(tmp_path)
    assert runner.go() == ["first", "second"]
    assert runner.go() == []
    assert set(step_seconds(runner.steps, tmp_path / ".steps")) == {"first", "second"}


def test_another_fingerprint_runs_all_again(tmp_path: Path) -> None:
    runner = Runner(tmp_path)
    runner.go()
    assert runner.go("changed") == ["first", "second"]
    assert (tmp_path / "first").read_text() == "x"


def test_a_lost_output_is_made_again_with_all_that_follows(tmp_path: Path) -> None:
    runner = Runner(tmp_path)
    runner.go()
    (tmp_path / "first").unlink()
    assert runner.go() == ["first", "second"]


@pytest.mark.parametrize(("continues", "left"), [(True, "xx"), (False, "x")])
def test_an_interrupted_step_continues_only_where_it_can(
    tmp_path: Path, continues: bool, left: str
) -> None:
    runner = Runner(tmp_path, continues)
    runner.is_interrupted = True
    with pytest.raises(KeyboardInterrupt):
        runner.go()
    runner.is_interrupted = False
    assert runner.go() == ["first", "second"]
    assert (tmp_path / "first").read_text() == left


def test_a_step_that_was_interrupted_under_another_fingerprint_starts_again(tmp_path: Path) -> None:
    runner = Runner(tmp_path, continues=True)
    runner.is_interrupted = True
    with pytest.raises(KeyboardInterrupt):
        runner.go()
    runner.is_interrupted = False
    runner.go("changed")
    assert (tmp_path / "first").read_text() == "x"


def test_the_fingerprint_covers_contents_and_settings(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("a")
    one = fingerprint_of([path], "s")
    assert fingerprint_of([path], "s") == one
    assert fingerprint_of([path], "t") != one
    path.write_text("b")
    assert fingerprint_of([path], "s") != one
