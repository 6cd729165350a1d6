"""``slurm/pipeline.sh``: the chain of jobs from a corpus to a probed model, and what stops it."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from megatron_in2.checkpoint.folder import complete_steps
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


def _run_chain(
    cluster: SlurmCluster, variables: dict[str, str], jobs: list[str], *options: str
) -> dict[str, str]:
    """Submit the chain and wait until it has left the queue; return each job's state by name."""
    environment = job_environment(variables)
    printed = cluster.run(str(ROOT / "slurm" / "pipeline.sh"), *LAYOUT, *options, **environment)
    print(printed)
    chain = dict(re.findall(r"^(\w+) +job (\d+)$", printed, flags=re.MULTILINE))
    assert list(chain) == ["synthesis", "dataset", "import", "training", "export", "probing"]
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


def test_a_chain_is_not_submitted_twice(tmp_path: Path) -> None:
    """With commands in place of Slurm's: a job is in the queue as long as a file names it."""
    queue, programs = tmp_path / "queue", tmp_path / "bin"
    programs.mkdir()
    queue.touch()
    submits = f"number=$((100 + $(wc -l <{queue})))\necho $number | tee -a {queue}\n"
    for name, lines in (("sbatch", submits), ("squeue", f"cat {queue}\n")):
        (programs / name).write_text(f"#!/bin/bash\n{lines}")
        (programs / name).chmod(0o755)
    known = {
        "PATH": f"{programs}:/usr/bin:/bin",
        "IN2_HOME": str(tmp_path / "home"),
        "IN2_SYNTHESIS": str(ROOT / "megatron_in2" / "quickstart" / "synthesis.yaml"),
        "IN2_MODEL": str(tmp_path),
    }

    def submit() -> subprocess.CompletedProcess[str]:
        command = ["bash", str(ROOT / "slurm" / "pipeline.sh")]
        return subprocess.run(command, env=known, capture_output=True, text=True, check=False)

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
    return [line.rstrip("\t").split("\t") for line in record.read_text().splitlines()]


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
