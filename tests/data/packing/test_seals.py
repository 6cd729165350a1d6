"""No sequence of starts, kills and changes gives a mixture of two datasets.

A run is killed in a forked process that ends at a chosen change of a file, as SIGKILL ends it:
what was not written is lost, and nothing is cleaned up.
"""

import json
import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from megatron_in2.data.packed.manifest import PARTS, part_path, read_manifest
from megatron_in2.data.packing import content
from megatron_in2.data.packing import preprocess as preprocess_module
from megatron_in2.data.packing.config import PreprocessConfig
from megatron_in2.data.packing.partial_output import PartialOutput
from megatron_in2.data.packing.preprocess import preprocess
from megatron_in2.errors import InputError
from megatron_in2.segment_store import write_store
from megatron_in2.tokenizers.base import Tokenizer

KILLED, REFUSED, DEFECT = 137, 2, 99
WORDS = ("Paris", "Tokyo", "Cairo")  # of one length: an edit keeps the file's size
SAMPLES = 14


RENAMES = ("replace", "unlink")  # of a file: most of them come when all is written
CHANGES = ("fsync", "truncate", "pwrite", *RENAMES)


def _killed_at(change: int, names: Sequence[str]) -> None:
    """End this process at its n-th change of a file, counting changes of these names."""
    left = [change]

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if not left[0]:
                os._exit(KILLED)
            return real(*args, **kwargs)

        return call

    for name in names:
        setattr(os, name, dying(getattr(os, name)))


def _start(config: PreprocessConfig, kill_at: int = 0, names: Sequence[str] = CHANGES) -> int:
    """Run in a process of its own; return its exit code."""
    process = os.fork()
    if not process:
        code = DEFECT
        try:
            _killed_at(kill_at, names)
            preprocess(config)
            code = 0
        except InputError:
            code = REFUSED
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


class World:
    """A folder with samples, their segment store, and the output, as a user has them."""

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        self.path = folder / "samples.jsonl"
        self.config = PreprocessConfig(
            [self.path], folder / "out" / "p", str(tokenizer.path), 128, pad_multiple=4, block=4
        )
        (folder / "out").mkdir()
        self.input_version = self.store_version = 0
        self.write_store(0)
        self.write_input(0)

    def write_input(self, version: int) -> None:
        """Write the samples; size and time of change are always the same."""
        lines = []
        for index in range(SAMPLES):
            record = {"id": f"{index}", "kind": f"k{index % 3}", "question": f"{WORDS[version]}?"}
            if index % 2:
                record |= {"store": "segments", "segments": [index % 3], "evidence": [0]}
            if index % 4 == 2:  # what another design changes
                turns = [("system", "Be kind."), ("user", "Hi."), ("assistant", WORDS[version])]
                messages = [{"role": role, "content": content} for role, content in turns]
                record = {"id": f"{index}", "messages": messages}
                lines.append(json.dumps(record))
                continue
            lines.append(json.dumps({**record, "answer": f"In {WORDS[version]}, {index % 7}."}))
        self.path.write_text("\n".join(lines) + "\n")
        os.utime(self.path, ns=(0, 0))
        self.input_version = version

    def write_store(self, version: int) -> None:
        texts = [f"{WORDS[version]} is {what}." for what in ("old", "new", "far")]
        encode = self.tokenizer.encode_continuation
        segments = [(text, encode(text)) for text in texts]
        write_store(self.folder / "segments", [("a", segments)], self.tokenizer)
        self.store_version = version

    def key(self) -> tuple[Any, ...]:
        """All that the output depends on."""
        config = self.config
        settings = (config.seed, config.design, config.validation_fraction)
        return (self.input_version, self.store_version, *settings)

    def reference(self) -> dict[str, bytes]:
        """What a run that nothing disturbs writes."""
        with tempfile.TemporaryDirectory(dir=self.folder) as clean:
            preprocess(replace(self.config, output_prefix=Path(clean) / "p", overwrite=False))
            return _files(Path(clean))


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def _readable(folder: Path) -> list[str]:
    """The names of the splits whose manifest and sizes agree: what a training would take."""
    found = []
    for name in ("p", "p_valid"):
        try:
            read_manifest(folder / name)
        except InputError:
            continue
        found.append(name)
    return found


class Runs(RuleBasedStateMachine):
    """Starts, kills and changes in any order, against a model of the allowed results.

    The model: a start that ends well leaves exactly what an undisturbed run of the same inputs
    and settings writes. One that is refused changes nothing. After a kill whatever can be read
    is whole: the result of this run, or of one before.
    """

    tokenizer: Tokenizer

    def __init__(self) -> None:
        super().__init__()
        self.world = World(Path(tempfile.mkdtemp()), self.tokenizer)
        self.out = self.world.config.output_prefix.parent
        self.expected: dict[tuple[Any, ...], dict[str, bytes]] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.world.folder)

    @rule(version=st.integers(0, 2))
    def edit_the_input(self, version: int) -> None:
        self.world.write_input(version)

    @rule(version=st.integers(0, 2))
    def replace_the_store(self, version: int) -> None:
        self.world.write_store(version)

    @rule(
        seed=st.integers(0, 1),
        design=st.sampled_from(["answer", "prompt-erasing"]),
        fraction=st.sampled_from([0.0, 0.4]),
    )
    def change_the_settings(self, seed: int, design: str, fraction: float) -> None:
        self.world.config = replace(
            self.world.config, seed=seed, design=design, validation_fraction=fraction
        )

    @rule(kill_at=st.integers(1, 119), overwrite=st.booleans())
    def start_and_kill(self, kill_at: int, overwrite: bool) -> None:
        self.start(overwrite, kill_at, CHANGES)

    @rule(kill_at=st.integers(11, 36), overwrite=st.booleans())
    def start_and_kill_late(self, kill_at: int, overwrite: bool) -> None:
        self.start(overwrite, kill_at, RENAMES)

    @rule(overwrite=st.booleans())
    def start(self, overwrite: bool, kill_at: int = 0, names: Sequence[str] = CHANGES) -> None:
        world = self.world
        key = world.key()
        if key not in self.expected:
            self.expected[key] = world.reference()
        splits = ["p", "p_valid"] if world.config.validation_fraction else ["p"]
        before = _files(self.out)
        exists = any(f"{split}.json" in before for split in splits)
        is_sealed = (self.out / ".p.partial" / "sealed.json").exists()
        has_stale = "p_valid" not in splits and "p_valid.json" in before
        code = _start(replace(world.config, overwrite=overwrite), kill_at, names)
        assert code in (0, REFUSED, KILLED)
        if code == 0:
            names = [
                part_path(Path(split), part).name for split in splits for part in (*PARTS, ".json")
            ]
            found = _files(self.out)
            assert {name: found[name] for name in names} == self.expected[key]
            assert not (self.out / ".p.partial").exists()
        elif code == REFUSED:
            assert has_stale or (not overwrite and (exists or is_sealed))
            assert _files(self.out) == before
        if code == 0 and not is_sealed:
            assert not has_stale
            assert overwrite or not exists

    @invariant()
    def whatever_can_be_read_is_whole(self) -> None:
        found = _files(self.out)
        for split in _readable(self.out):
            name, known = f"{split}.json", self.expected.items()
            (made,) = (key for key, files in known if files.get(name) == found[name])
            for part in PARTS:
                name = part_path(Path(split), part).name
                assert found[name] == self.expected[made][name], f"{name} is another run's"


@pytest.fixture
def runs(small_tokenizer: Tokenizer) -> type[Runs]:
    return type("RunsOfThisTokenizer", (Runs,), {"tokenizer": small_tokenizer})


LIMITS = settings(
    max_examples=10,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def test_no_sequence_of_starts_and_kills_mixes_two_datasets(runs: type[Runs]) -> None:
    run_state_machine_as_test(runs, settings=LIMITS)


@pytest.mark.slow
def test_no_long_sequence_does_either(runs: type[Runs]) -> None:
    many = settings(LIMITS, max_examples=200, stateful_step_count=25, derandomize=False)
    run_state_machine_as_test(runs, settings=many)


def test_the_model_finds_work_that_is_believed_blindly(
    runs: type[Runs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: where any journal and any seal count as a run's own, the model fails."""
    monkeypatch.setattr(PartialOutput, "_read", PartialOutput._read_any)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(runs, settings=settings(LIMITS, phases=[Phase.generate]))


@pytest.fixture
def world(small_tokenizer: Tokenizer, tmp_path: Path) -> World:
    return World(tmp_path, small_tokenizer)


def _sealed(world: World, **changes: Any) -> PreprocessConfig:
    """Kill a run between its seal and the first file that gets its name."""
    config = replace(world.config, **changes)
    seal = config.output_prefix.parent / ".p.partial" / "sealed.json"
    kill_at = 1
    while not seal.exists():
        assert _start(config, kill_at, ("replace", "unlink")) == KILLED
        kill_at += 1
    return config


def test_another_runs_seal_is_not_taken(world: World) -> None:
    """Killed when sealed; another design killed while it writes; the first started again."""
    first = _sealed(world)
    second = replace(first, design="prompt-erasing", overwrite=True)
    assert _start(replace(second, overwrite=False)) == REFUSED
    assert _start(second, 60) == KILLED
    assert _start(first) == 0
    found, expected = _files(first.output_prefix.parent), world.reference()
    assert {name: found[name] for name in expected} == expected


def test_a_refused_run_names_the_seal_and_leaves_it(world: World) -> None:
    first = _sealed(world)
    with pytest.raises(InputError, match=r"finished result .* --overwrite"):
        preprocess(replace(first, seed=1))
    assert _start(first, 1, ("pwrite",)) == 0  # it only gives the files their names


def test_a_seal_whose_files_are_gone_is_stale(world: World) -> None:
    config = _sealed(world)
    assert _start(config, 14, ("replace", "unlink")) == KILLED
    for path in config.output_prefix.parent.glob("p*"):
        path.unlink()
    assert _start(config) == 0
    found, expected = _files(config.output_prefix.parent), world.reference()
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("what", ["input", "store"])
def test_what_changes_between_kill_and_resume_is_seen(world: World, what: str) -> None:
    """Size and time of change stay; the lengths of the samples too."""
    assert _start(world.config, 40) == KILLED
    getattr(world, f"write_{what}")(1)
    assert _start(world.config) == 0
    found, expected = _files(world.config.output_prefix.parent), world.reference()
    assert {name: found[name] for name in expected} == expected


def test_an_input_that_changes_while_it_is_read_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = preprocess_module.Collection.collect

    def collect(self: Any, options: Any) -> None:
        read(self, options)
        world.write_input(1)

    monkeypatch.setattr(preprocess_module.Collection, "collect", collect)
    with pytest.raises(InputError, match="changed while it was read"):
        preprocess(world.config)


def test_a_huge_input_is_sampled_and_the_manifest_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(content, "SAMPLE_BYTES", 10)
    (found,) = preprocess(world.config)["train"].inputs.values()
    assert found["sampled"] == "4096 x 10 bytes"
    assert found["bytes"] == world.path.stat().st_size
    before = content.content_of(world.path)
    os.utime(world.path, ns=(1, 1))
    assert content.content_of(world.path) != before


def test_the_manifest_names_inputs_and_stores(world: World) -> None:
    manifest = preprocess(world.config)["train"]
    store = json.loads((world.folder / "segments" / "store.json").read_text())
    assert manifest.stores == {
        str(world.folder / "segments"): {
            name: store[name] for name in ("tokens_xxh3", "offsets_xxh3")
        }
    }
    assert manifest.inputs == {str(world.path): content.content_of(world.path)}
