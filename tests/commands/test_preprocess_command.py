"""``in2 preprocess``: packing with and without its name, what it counts and refuses."""

import json
from pathlib import Path

from megatron_in2.data.packed.dataset import PackedDataset
from tests.conftest import RunTool, assert_refused
from tests.data.conftest import WriteSamples, text_sample


def test_the_command_refuses_in_one_line_and_leaves_nothing(
    run_here: RunTool, write_samples: WriteSamples, tmp_path: Path
) -> None:
    path = write_samples([text_sample(0, None, "a", "b"), {"id": "x", "question": "a"}])
    options = ("--tokenizer-model", "mistral-v1", "--seq-length", 256)
    result = run_here(
        "preprocess_in2", "--input", path, "--output-prefix", tmp_path / "out" / "p", *options
    )
    assert_refused(result, "samples.jsonl:2", "'kind'")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_command_packs_and_says_so(
    run_here: RunTool, write_samples: WriteSamples, tmp_path: Path
) -> None:
    path = write_samples([text_sample(0, None, "a", "b")])
    options = ("--tokenizer-model", "mistral-v1", "--seq-length", 256)
    command = ("preprocess_in2", "--input", path, "--output-prefix", tmp_path / "p", *options)
    result = run_here(*command)
    assert result.returncode == 0, result.stderr
    assert "1 samples" in result.stdout
    assert len(PackedDataset(tmp_path / "p")) == 1
    assert_refused(run_here(*command), "--overwrite")


def test_the_command_counts_what_it_skipped(tmp_path: Path, run_tool: RunTool) -> None:
    good = (text_sample(index, None, f"Question {index}?", "Answer.") for index in range(5))
    lines = [json.dumps(sample).encode() for sample in good]
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join([*lines, b"{", b"{"]))
    command = (
        *("preprocess_in2", "--input", path, "--output-prefix", tmp_path / "p"),
        *("--tokenizer-model", "mistral-v1", "--seq-length", 256, "--workers", 2),
    )
    assert_refused(run_tool(*command), "x.jsonl:6", "not JSON")
    result = run_tool(*command, "--on-error", "skip")
    assert result.returncode == 0, result.stderr
    assert "rejected {'not JSON': 2}" in result.stdout


def test_shards_are_packed_and_merged(
    run_here: RunTool, write_samples: WriteSamples, tmp_path: Path
) -> None:
    files = []
    for start in (0, 5):
        samples = [text_sample(index, None, "?", "Yes.") for index in range(start, start + 5)]
        files.append(write_samples(samples).rename(tmp_path / f"{start}.jsonl"))
    for shard in (0, 1):
        result = run_here(
            *(
                "preprocess_in2",
                "pack",
                "--input",
                *files,
                "--output-prefix",
                tmp_path / f"{shard}",
            ),
            *("--tokenizer-model", "mistral-v1", "--seq-length", 256),
            *("--shard", shard, "--num-shards", 2),
        )
        assert result.returncode == 0, result.stderr
    merge = ("preprocess_in2", "merge", "--output-prefix", tmp_path / "all", "--inputs")
    assert_refused(run_here(*merge, tmp_path / "1"), "missing: 1/2")
    result = run_here(*merge, tmp_path / "0", tmp_path / "1.json")
    assert result.stdout.startswith("merged: 10 samples, "), result.stderr
    assert_refused(
        run_here(*merge, tmp_path / "0", "--template", "film"), "--template is an option of pack"
    )
