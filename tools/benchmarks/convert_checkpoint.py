#!/usr/bin/env python3
"""Time and memory of checkpoint conversion, compared with a copy of the bytes and transformers.

Example:
    python tools/benchmarks/convert_checkpoint.py --folder /scratch/conversion

Writes Mistral-7B's shapes with random bfloat16 weights (14.5 GB; 44 GB of disk while it runs),
then runs, each in its own process from a cold page cache: a copy (cp --reflink=never, every file
synced), both conversions, and transformers' from_pretrained + save_pretrained. It prints wall and
CPU time; on a machine with other work, compare the CPU time. Memory is the largest anonymous
resident size (RssAnon), sampled 20 times a second, and the largest resident size with mapped files,
which the kernel can drop. --verify also proves the round trip bit for bit and compares logits. All
files are removed at the end.
"""

import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.registry import architecture_of, tensor_table
from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.conversion.huggingface_writer import TensorSpec, write_huggingface_tensors
from megatron_in2.errors import InputError
from megatron_in2.files import write_json
from megatron_in2.progress import progress_bar
from megatron_in2.tokenizers.load import load_tokenizer

CONVERT = Path(__file__).resolve().parent.parent / "convert_checkpoint.py"
SAMPLE_SECONDS = 0.05
RELOAD = """
import sys
from transformers import AutoModelForCausalLM
AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="bfloat16").save_pretrained(sys.argv[2])
"""


@dataclass(frozen=True)
class Measured:
    """The result of one process: time, largest memory (anonymous, and all), and its output."""

    seconds: float
    cpu_seconds: float
    anonymous_bytes: int
    resident_bytes: int
    output: str


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="scratch directory; not kept")
    parser.add_argument("--layers", type=int, default=32, help="layers of the model")
    parser.add_argument("--verify", action="store_true", help="prove the round trip too")
    parser.add_argument(
        "--transformers", action="store_true", help="run transformers too: needs 15 GB of memory"
    )
    options = parser.read()
    if options.folder.exists():
        raise InputError(f"--folder {options.folder} exists: name a new directory")
    options.folder.mkdir(parents=True)
    try:
        _run(options.folder, options.layers, options.transformers, options.verify)
    finally:
        shutil.rmtree(options.folder)


def _run(folder: Path, layers: int, with_transformers: bool, with_verification: bool) -> None:
    source, copy = folder / "hf", folder / "copy"
    megatron, back, again = folder / "megatron", folder / "back", folder / "again"
    nbytes = _write_model(source, ModelConfig(num_layers=layers))
    print(f"{nbytes / 1e9:.1f} GB of weights, {layers} layers, {os.cpu_count()} cores", flush=True)
    python = [sys.executable, str(CONVERT)]
    copied = _measure(
        ["cp", "-r", "--reflink=never", str(source), str(copy)], source, lambda: _sync(copy)
    )
    _report("copy + sync", copied, copied)
    shutil.rmtree(copy)
    into = _measure(
        [*python, "hf-to-megatron", "--input", str(source), "--output", str(megatron)], source
    )
    _report("hf-to-megatron", into, copied)
    out = _measure(
        [*python, "megatron-to-hf", "--input", str(megatron), "--output", str(back)], megatron
    )
    _report("megatron-to-hf", out, copied)
    if with_verification:
        shutil.rmtree(back)
        checked = [*python, "megatron-to-hf", "--input", str(megatron), "--output", str(back)]
        proved = _measure([*checked, "--verify"], megatron)
        _report("megatron-to-hf --verify", proved, copied)
        print(proved.output.strip().splitlines()[-1], flush=True)
        _require_same_files(source, back)
    shutil.rmtree(megatron)
    shutil.rmtree(back)
    if with_transformers:
        peer = [sys.executable, "-c", RELOAD, str(source), str(again)]
        _report("transformers load + save", _measure(peer, source, lambda: _sync(again)), copied)


def _write_model(folder: Path, config: ModelConfig) -> int:
    """Write a Hugging Face directory of random weights; return their size in bytes."""
    folder.mkdir()
    specs = [
        TensorSpec(name, shape, torch.bfloat16)
        for mapping in tensor_table(config)
        for name, shape in zip(mapping.names, mapping.shapes, strict=True)
    ]
    generator = torch.Generator().manual_seed(0)

    def tensors() -> Iterator[torch.Tensor]:
        for spec in progress_bar(specs, desc="random weights", unit=" tensors"):
            if len(spec.shape) == 1:
                yield torch.ones(spec.shape, dtype=spec.dtype)
            else:
                yield torch.randn(spec.shape, generator=generator).mul_(0.02).to(spec.dtype)

    write_huggingface_tensors(folder, specs, tensors(), 5 * 10**9)
    tokenizer = load_tokenizer("mistral-v1")
    fields = architecture_of(config).write_config(config) | {"torch_dtype": "bfloat16"}
    write_json(folder / "config.json", fields)
    shutil.copyfile(tokenizer.path, folder / "tokenizer.model")
    return sum(spec.nbytes for spec in specs)


def _measure(
    command: list[str], source: Path, finish: Callable[[], None] = lambda: None
) -> Measured:
    _evict(source)
    started, cpu = time.perf_counter(), _cpu_seconds()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = {"RssAnon": 0, "VmRSS": 0}
    sampler = threading.Thread(target=_sample, args=(psutil.Process(process.pid), peak))
    sampler.start()
    output, _ = process.communicate()
    sampler.join()
    if process.returncode:
        raise InputError(f"{' '.join(command)} ended with exit code {process.returncode}")
    finish()
    seconds = time.perf_counter() - started
    return Measured(seconds, _cpu_seconds() - cpu, peak["RssAnon"], peak["VmRSS"], output)


def _cpu_seconds() -> float:
    """Return the CPU seconds, user and kernel, of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _sample(process: psutil.Process, peak: dict[str, int]) -> None:
    """Track the largest value of some lines of a process's status until it ends."""
    status = Path(f"/proc/{process.pid}/status")
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        for line in status.read_text().splitlines():
            name, _, value = line.partition(":")
            if name in peak:
                peak[name] = max(peak[name], int(value.split()[0]) * 1024)
        time.sleep(SAMPLE_SECONDS)


def _report(name: str, measured: Measured, copied: Measured) -> None:
    print(
        f"{name:26} {measured.seconds:7.1f} s   {measured.seconds / copied.seconds:5.2f} x copy   "
        f"{measured.cpu_seconds:6.1f} s of CPU   "
        f"{measured.anonymous_bytes / 1e9:6.2f} GB anonymous   "
        f"{measured.resident_bytes / 1e9:6.2f} GB with mapped files",
        flush=True,
    )


def _evict(folder: Path) -> None:
    """Drop a directory's files from the page cache; they must be synced."""
    for path in _files(folder):
        with open(path, "rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _sync(folder: Path) -> None:
    for path in _files(folder):
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _require_same_files(source: Path, back: Path) -> None:
    """Check that the shards of the round trip equal those of the source byte for byte."""
    shards = sorted(path.name for path in source.glob("*.safetensors"))
    for name in shards:
        if subprocess.run(["cmp", str(source / name), str(back / name)], check=False).returncode:
            raise InputError(f"{name} differs after the round trip")
    print(f"round trip: {len(shards)} shards equal byte for byte", flush=True)


if __name__ == "__main__":
    run_command(main)
