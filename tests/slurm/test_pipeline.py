"""``slurm/pipeline.sh``: the chain of jobs from a corpus to a probed model, and what stops it."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from megatron_in2.checkpoint.folder import complete_steps
from megatron_in2.files import read_json
from megatron_in2.tokenizers.base import Tokenizer
from tests.conftest import ROOT, RunTool
from tests.slurm.cluster import SlurmCluster
from tests.slurm.conftest import job_environment
from tests.training.conftest import MODEL, SEQ_LENGTH, Train

SHARDS = 2
STEPS = 6
LAYOUT = ("--parallel.tensor=2", "--parallel.sequence=true")


@pytest.fixture
def pretrained(tmp_path: Path, train: Train, run_tool: RunTool) -> Path:
    """A Hugging Face checkpoint to start from."""
    train(tmp_path / "pretrained", "--schedule.steps=1", "--data.validation=")
    folder = tmp_path / "model"
    arguments = ("--input", tmp_path / "pretrained", "--output", folder)
    done = run_tool("convert_checkpoint", "megatron-to-hf", *arguments)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def variables(
    tmp_path: Path, pretrained: Path, corpus_file: Path, small_tokenizer: Tokenizer
) -> dict[str, str]:
    synthesis, config = tmp_path / "synthesis.yaml", tmp_path / "train.yaml"
    settings = {
        "corpus": {"paths": [str(corpus_file)], "max_documents": 600},
        "segments": {"min_tokens": 24},
        "composition": {"min_tokens": 100, "max_tokens": SEQ_LENGTH},
        "mixture": {"fine_grained": 150, "integration": 10, "short": 20},
        "tokenizer_model": str(small_tokenizer.path),
    }
    synthesis.write_text(yaml.safe_dump(settings))
    run = {
        "model": MODEL,
        "data": {"tokenizer_model": str(small_tokenizer.path), "seq_length": SEQ_LENGTH},
        "schedule": {"global_batch_rows": 4, "steps": STEPS},
        "runtime": {"dtype": "float32"},
    }
    config.write_text(yaml.safe_dump(run))
    return {
        "IN2_HOME": str(tmp_path / "home"),
        "IN2_SYNTHESIS": str(synthesis),
        "IN2_CONFIG": str(config),
        "IN2_BASE": str(pretrained),
        "IN2_TOKENIZER": str(small_tokenizer.path),
        "IN2_SEQ_LENGTH": str(SEQ_LENGTH),
        "IN2_SHARDS": str(SHARDS),
        "IN2_VALIDATION_FRACTION": "0.1",
        "IN2_PROBE_TOKENS": str(SEQ_LENGTH - 128),  # less the longest answer
        "IN2_PROBE_POSITIONS": "2",
        "IN2_PROBE_BINS": "2",
        "IN2_PROBE_FILLS": "0.9",
        "IN2_SBATCH_TRAIN": "--nodes=2 --ntasks-per-node=1 --gpus-per-node=0",
    }


@pytest.fixture
def jobs(cluster: SlurmCluster) -> Iterator[list[str]]:
    submitted: list[str] = []
    yield submitted
    cluster.run("scancel", *submitted, check=False)


CHAIN = ("synthesis", "dataset", "import", "training", "export", "probing")
ROUNDS = (
    *("synthesis", "attempts1", "dataset1", "import1", "training1", "export1"),
    *("attempts2", "dataset2", "training2", "export2", "probing2"),
)


def _run_chain(
    cluster: SlurmCluster,
    variables: dict[str, str],
    jobs: list[str],
    expected: tuple[str, ...] = CHAIN,
) -> dict[str, str]:
    """Submit the chain and wait until it has left the queue; return each job's state by name."""
    environment = job_environment(variables)
    printed = cluster.run(str(ROOT / "slurm" / "pipeline.sh"), *LAYOUT, **environment)
    print(printed)
    chain = dict(re.findall(r"^(\w+) +job (\d+)$", printed, flags=re.MULTILINE))
    assert sorted(chain) == sorted(expected)
    jobs.extend(chain.values())
    numbers = ",".join(chain.values())
    waiting = ("squeue", "--noheader", "--states=all", f"--jobs={numbers}", "--format=%T")

    def has_ended() -> bool:
        return set(cluster.run(*waiting).split()) <= {"COMPLETED", "FAILED", "CANCELLED"}

    cluster.wait_for(has_ended, "the chain's end", seconds=1800)
    lines = cluster.run(*waiting[:-1], "--format=%A %F %T").splitlines()
    states = {number: line.split()[2] for line in lines for number in line.split()[:2]}
    return {name: states[number] for name, number in chain.items()}


@pytest.mark.slow
def test_the_chain_ends_in_a_probed_model_and_is_restartable(
    cluster: SlurmCluster, variables: dict[str, str], jobs: list[str]
) -> None:
    home, model = Path(variables["IN2_HOME"]), Path(variables["IN2_BASE"])
    # First without its data: nothing that needs them may start.
    broken = {**variables, "IN2_SEQ_LENGTH": "64"}
    states = _run_chain(cluster, broken, jobs)
    assert states["synthesis"] == states["import"] == "COMPLETED"
    assert states["dataset"] == "CANCELLED"
    assert states["training"] == states["export"] == states["probing"] == "CANCELLED"

    states = _run_chain(cluster, variables, jobs)
    logs = "".join(path.read_text() for path in (home / "logs").glob("*.out"))
    assert set(states.values()) == {"COMPLETED"}, logs
    assert f"{home}/init exists: skipped" in logs
    assert f"starting from {home}/init/iter_" in logs
    assert [step.name for step in complete_steps(home / "checkpoints")] == [f"iter_{STEPS:07d}"]
    for name in ("document", "document-fill-90", "association", "association-fill-90"):
        score = json.loads((home / "scores" / f"{name}.json").read_text())
        assert sum(depth["probes"] for depth in score["depths"]) > 0
    assert "code is not probed: " in logs
    for name in ("curves", "document-fills", "association-fills"):
        assert (home / "scores" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "| document | 90 % |" in (home / "scores" / "table.md").read_text()
    assert 'id="answers"' in (home / "scores" / "report.html").read_text()
    assert (home / "huggingface" / "config.json").read_bytes() != b""
    assert model.exists()


@pytest.mark.slow
def test_two_rounds_train_on_the_attempts_of_the_model_before(
    cluster: SlurmCluster, variables: dict[str, str], jobs: list[str]
) -> None:
    home = Path(variables["IN2_HOME"])
    asked = {
        **variables,
        "IN2_ROUNDS": "2",
        "IN2_SHARDS": "1",
        # A model that has hardly been trained is never right.
        "IN2_ATTEMPTS": "--tries 8 --max-new-tokens 40 --wrong-share 1 --judge exact",
        "IN2_PROBE_TASKS": "document",
        "IN2_PROBE_FILLS": "",
    }
    states = _run_chain(cluster, asked, jobs, ROUNDS)
    logs = "".join(path.read_text() for path in (home / "logs").glob("*.out"))
    assert set(states.values()) == {"COMPLETED"}, logs
    assert f"starting from {home}/init/iter_" in logs
    assert f"starting from {home}/round-1/checkpoints/iter_{STEPS:07d}" in logs
    first, second = (
        read_json(home / name / "samples" / "in2.jsonl.attempts.run.json")["weights"]
        for name in ("round-1", "round-2")
    )
    assert first != second
    assert (home / "round-2" / "scores" / "document.json").exists()


def test_a_chain_without_its_inputs_is_not_submitted(tmp_path: Path) -> None:
    command = ["bash", str(ROOT / "slurm" / "pipeline.sh")]
    complete = {
        "PATH": "/usr/bin:/bin",
        "IN2_HOME": str(tmp_path / "home"),
        "IN2_SYNTHESIS": str(ROOT / "megatron_in2" / "quickstart" / "synthesis.yaml"),
        "IN2_BASE": str(tmp_path / "absent"),
    }
    for missing in ("IN2_HOME", "IN2_SYNTHESIS", "IN2_BASE"):
        known = {name: value for name, value in complete.items() if name != missing}
        if missing != "IN2_BASE":
            known["IN2_BASE"] = str(tmp_path)
        done = subprocess.run(command, env=known, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert missing in done.stderr
    assert not (tmp_path / "home").exists()


def _client(tmp_path: Path, **commands: str) -> dict[str, str]:
    """Write commands in place of Slurm's; return the variables of a chain that uses them."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, lines in commands.items():
        (programs / name).write_text(f"#!/bin/bash\n{lines}")
        (programs / name).chmod(0o755)
    return {
        "PATH": f"{programs}:/usr/bin:/bin",
        "IN2_HOME": str(tmp_path / "home"),
        "IN2_SYNTHESIS": str(ROOT / "megatron_in2" / "quickstart" / "synthesis.yaml"),
        "IN2_MODEL": str(tmp_path),
    }


def _submit(variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "slurm" / "pipeline.sh"), "--optimizer.lr=1"]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def test_a_round_waits_for_the_model_of_the_one_before(tmp_path: Path) -> None:
    record = tmp_path / "record"
    shown = "IN2_ROUND IN2_DESIGN IN2_INIT IN2_DATA IN2_OUTPUT"
    submits = f"""printf "%s " "$@" >>{record}
for name in {shown}; do printf "%s=%s " $name "${{!name:-}}" >>{record}; done
echo >>{record}
wc -l <{record}
"""
    known = _client(tmp_path, sbatch=submits, squeue="true\n")
    known |= {"IN2_ROUNDS": "2", "IN2_SHARDS": "1", "IN2_SBATCH_MODEL": "--gpus-per-node=1"}
    done = _submit(known)
    assert done.returncode == 0, done.stderr
    numbers = dict(re.findall(r"^(\w+) +job (\d+)$", done.stdout, flags=re.MULTILINE))
    assert sorted(numbers) == sorted(ROUNDS)
    jobs = dict(enumerate(record.read_text().splitlines(), start=1))
    waits = {
        name: sorted(
            re.findall(r"\d+", (re.findall(r"afterok:(\S+)", jobs[int(number)]) or [""])[0])
        )
        for name, number in numbers.items()
    }
    expected = {
        "synthesis": (), "import1": (), "attempts1": ("synthesis",), "dataset1": ("attempts1",),
        "training1": ("dataset1", "import1"), "export1": ("training1",),
        "attempts2": ("synthesis", "export1"), "dataset2": ("attempts2",),
        "training2": ("dataset2", "export1"), "export2": ("training2",), "probing2": ("export2",),
    }  # fmt: skip
    assert waits == {name: sorted(numbers[each] for each in of) for name, of in expected.items()}
    home = known["IN2_HOME"]
    for number, start in ((1, f"{home}/init"), (2, f"{home}/round-1/checkpoints")):
        place = f"{home}/round-{number}"
        training = jobs[int(numbers[f"training{number}"])]
        assert "--optimizer.lr=1" in training
        assert f"IN2_ROUND={number} IN2_DESIGN=partial-answer-masking IN2_INIT={start} " in training
        assert f"IN2_DATA={place}/data/in2 IN2_OUTPUT={place}/checkpoints" in training
        assert "--gpus-per-node=1" in jobs[int(numbers[f"attempts{number}"])]
    assert "IN2_ROUND=2" in jobs[int(numbers["probing2"])]
    assert "IN2_ROUND= " in jobs[int(numbers["synthesis"])]

    for name, value, words in (
        ("IN2_DESIGN", "answer", "needs the design partial-answer-masking"),
        ("IN2_ROUNDS", "two", "IN2_ROUNDS=two: use 0 (none) to 9"),
    ):
        refused = _submit({**known, name: value})
        assert refused.returncode == 2
        assert words in refused.stderr
    (tmp_path / "complete.json").touch()  # a checkpoint of ours, from which nothing is drawn
    refused = _submit(known)
    assert refused.returncode == 2
    assert "export it first" in refused.stderr
    assert len(record.read_text().splitlines()) == len(jobs)


def test_a_chain_is_not_submitted_twice(tmp_path: Path) -> None:
    """With commands in place of Slurm's: a job is in the queue as long as a file names it."""
    queue = tmp_path / "queue"
    queue.touch()
    submits = f"number=$((100 + $(wc -l <{queue})))\necho $number | tee -a {queue}\n"
    known = _client(tmp_path, sbatch=submits, squeue=f"cat {queue}\n")

    def submit() -> subprocess.CompletedProcess[str]:
        return _submit(known)

    first = submit()
    assert first.returncode == 0, first.stderr
    numbers = queue.read_text().split()
    assert len(numbers) == 7
    queue.write_text("\n".join(["99", *numbers[-2:]]))  # the others have ended
    second = submit()
    assert second.returncode == 2
    assert (
        f"has jobs in the queue: wait for them, or scancel {' '.join(numbers[-2:])}"
        in second.stderr
    )
    assert len(queue.read_text().split()) == 3
    queue.write_text("99\n")
    known["IN2_PILOT"] = "20"  # a job of its own, and nothing behind it
    pilot = submit()
    assert pilot.returncode == 0
    assert re.fullmatch(r"pilot +job \d+", pilot.stdout.splitlines()[0])
    assert len(queue.read_text().split()) == 2
    del known["IN2_PILOT"]
    queue.write_text("99\n")
    assert submit().returncode == 0


def _commands(tmp_path: Path, stage: str, **variables: str) -> list[list[str]]:
    """Run a stage with a recorder in place of Python; return the commands that it starts."""
    programs, record = tmp_path / "bin", tmp_path / "record"
    programs.mkdir(exist_ok=True)
    record.unlink(missing_ok=True)
    scripts = {
        "srun": 'while [[ $1 == --* ]]; do shift; done\nexec "$@"\n',
        "recorder": f'printf "%s\\t" "$@" >>{record}\necho >>{record}\n',
    }
    for name, lines in scripts.items():
        (programs / name).write_text(f"#!/bin/bash\n{lines}")
        (programs / name).chmod(0o755)
    known = {
        "PATH": f"{programs}:/usr/bin:/bin",
        "IN2_ROOT": str(ROOT),
        "IN2_PYTHON": "recorder",
        "IN2_HOME": str(tmp_path / "home"),
        "IN2_SYNTHESIS": "synthesis.yaml",
        "IN2_TOKENIZER": "tokenizer",
        "IN2_SEED": "7",
        "IN2_MAX_COST": "",
        "IN2_DESIGN": "prompt-erasing",
        "IN2_MODEL": "base",
        "IN2_ATTEMPTS": "",
        "IN2_SEQ_LENGTH": "64",
        "IN2_VALIDATION_FRACTION": "0.1",
        "IN2_PROBE_TOKENS": "60",
        "IN2_PROBE_POSITIONS": "2",
        "IN2_PROBE_TASKS": "document code database association",
        "IN2_PROBE_FILLS": "0.5",
        "IN2_PROBE_BINS": "2",
        "IN2_PROBE_BATCH": "1",
        "IN2_SHARDS": "4",
        **variables,
    }
    command = ["bash", str(ROOT / "slurm" / "stage.sh"), stage]
    subprocess.run(command, env=known, capture_output=True, text=True, check=True)
    lines = record.read_text().splitlines() if record.exists() else []
    return [line.rstrip("\t").split("\t") for line in lines]


def _option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_seeds_design_and_money_are_passed(tmp_path: Path) -> None:
    (plain,) = _commands(tmp_path, "synthesis")
    assert "--max-cost" not in plain
    assert _option(plain, "--seed") == "7"
    (limited,) = _commands(tmp_path, "synthesis", IN2_MAX_COST="50", SLURM_ARRAY_TASK_ID="2")
    assert float(_option(limited, "--max-cost")) == 12.5  # a quarter for each of four shards
    assert _option(limited, "--shard") == "2"
    (pilot,) = _commands(tmp_path, "pilot", IN2_PILOT="200", IN2_SHARDS="1", IN2_MAX_COST="5")
    assert _option(pilot, "--pilot") == "200"
    assert float(_option(pilot, "--max-cost")) == 5
    assert "--shard" not in pilot
    (packing,) = _commands(tmp_path, "preprocessing", IN2_SHARDS="1")
    assert _option(packing, "--design") == "prompt-erasing"
    assert _option(packing, "--seed") == "7"


def test_a_round_has_its_own_samples_data_and_model(tmp_path: Path) -> None:
    home = tmp_path / "home"
    options = {"IN2_ATTEMPTS": "--tries 2 --judge number", "SLURM_ARRAY_TASK_ID": "3"}
    (first,) = _commands(tmp_path, "attempts", IN2_ROUND="1", **options)
    assert first[1] == "self-correction"
    assert _option(first, "--model") == "base"
    assert _option(first, "--samples") == f"{home}/samples/in2.00003-of-00004.jsonl"
    assert _option(first, "--output") == f"{home}/round-1/samples/in2.00003-of-00004.jsonl"
    assert first[-4:] == ["--tries", "2", "--judge", "number"]
    (second,) = _commands(tmp_path, "attempts", IN2_ROUND="2", IN2_SHARDS="1")
    assert _option(second, "--model") == f"{home}/round-1/huggingface"
    assert _option(second, "--samples") == f"{home}/samples/in2.jsonl"
    assert _option(second, "--seed") != _option(first, "--seed")
    (packing,) = _commands(tmp_path, "preprocessing", IN2_ROUND="2", IN2_SHARDS="1")
    assert _option(packing, "--input") == f"{home}/round-2/samples/in2.jsonl"
    assert _option(packing, "--output-prefix") == f"{home}/round-2/data/in2"
    assert _option(packing, "--overlong") == "truncate-context"
    (plain,) = _commands(tmp_path, "preprocessing", IN2_SHARDS="1")
    assert "--overlong" not in plain
    (export,) = _commands(tmp_path, "export_model", IN2_ROUND="2")
    assert _option(export, "--output") == f"{home}/round-2/huggingface"
    drawn = home / "round-1" / "samples" / "in2.00003-of-00004.jsonl"
    drawn.parent.mkdir(parents=True)
    drawn.touch()
    assert _commands(tmp_path, "attempts", IN2_ROUND="1", **options) == []


def test_all_tasks_with_pieces_are_probed(tmp_path: Path) -> None:
    folder = tmp_path / "pieces"
    folder.mkdir()
    for name in ("document_sentences", "code_functions", "database_entities"):
        (folder / f"{name}.jsonl").touch()
    commands = _commands(tmp_path, "probing", IN2_PIECES=str(folder))
    built = [_option(command, "--task") for command in commands if command[1] == "build"]
    assert built == ["document", "code", "database", "association"]
    (folder / "code_functions.jsonl").unlink()
    commands = _commands(tmp_path, "probing", IN2_PIECES=str(folder))
    built = [_option(command, "--task") for command in commands if command[1] == "build"]
    assert built == ["document", "database", "association"]
