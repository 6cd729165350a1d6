"""Worker processes end with the process that has started them."""

import json
import signal
import subprocess
import sys

import psutil

ENDLESS = """
import itertools, sys
from pathlib import Path
from megatron_in2.data.packing.encoding.designs import DESIGNS
from megatron_in2.data.packing.encoding.inputs import Chunk
from megatron_in2.data.packing.workers import EncodeOptions, encoded_chunks
from megatron_in2.templates.film import FILM

options = EncodeOptions("mistral-v1", FILM, DESIGNS["answer"], "", 8192, False, 0.0)
chunk = Chunk(Path("x.jsonl"), 1, [sys.argv[1].encode()], 1, 1 << 20)
for encoded in encoded_chunks(itertools.repeat(chunk), options, workers=2):
    print(len(encoded.samples), flush=True)
"""


def test_workers_do_not_outlive_a_kill() -> None:
    record = {"id": "s", "kind": "k", "question": "Which?", "answer": "This one."}
    command = [sys.executable, "-c", ENDLESS, json.dumps(record)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"  # they are at work
        children = psutil.Process(process.pid).children()
        assert len(children) > 2  # and multiprocessing's own
        process.send_signal(signal.SIGKILL)
        _, alive = psutil.wait_procs(children, timeout=60)
        assert not alive
