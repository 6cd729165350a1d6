#!/usr/bin/env python3
r"""How fast are questions asked through the OpenAI protocol, and how much does a restart cost?

Examples:
    python tools/benchmarks/paid_questions.py latency
    python tools/benchmarks/paid_questions.py slow
    python tools/benchmarks/paid_questions.py limit
    python tools/benchmarks/paid_questions.py restart --answers 200000

"latency" and "slow" run whole synthesis runs (journal, filters, composition, report) and a bare
openai.AsyncOpenAI client with the same requests in turns, against a server process of this machine:
replies after 0.5 s at concurrency 256; or 1 % of them after 12 s, the others after 0.3 s, at
concurrency 32. The time is the server's, from the first request to the last reply. "limit": a
server that takes 10 requests a second. "restart": processor time of a run that finds all answers
in its journal, composition left out: first without, then with the decisions about them; and the
size of the journal.
"""

import contextlib
import io
import json
import os
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.records import Document
from megatron_in2.segment_store import SegmentStore, write_store
from megatron_in2.synthesis.config import CorpusConfig, OpenAIConfig, SynthesisConfig
from megatron_in2.synthesis.corpus.python_texts import python_texts
from megatron_in2.synthesis.corpus.segments import split_into_segments
from megatron_in2.synthesis.llm.journal.journal import Journal
from megatron_in2.synthesis.llm.prompts import load_prompts
from megatron_in2.synthesis.llm.requests import RequestMaker
from megatron_in2.synthesis.llm.writer import question_request
from megatron_in2.synthesis.pipeline import Admission, build_writer, journal_path
from megatron_in2.synthesis.questions.asking import Lane
from megatron_in2.synthesis.questions.evidence import EvidenceWalk
from megatron_in2.synthesis.questions.stream import QuestionStage
from megatron_in2.synthesis.questions.writer import Evidence
from megatron_in2.synthesis.rejects import Rejects
from megatron_in2.synthesis.workers import iter_chunks
from megatron_in2.templates.load import load_template
from megatron_in2.tokenizers.load import load_tokenizer

HERE = Path(__file__).parent
CASES: dict[str, dict[str, Any]] = {
    "latency": {"delay": 0.5, "concurrency": 256, "questions": 4000},
    "slow": {"delay": 0.3, "slow": 0.01, "slow_delay": 12.0, "concurrency": 32, "questions": 3000},
    "limit": {"delay": 0.05, "rate": 10, "burst": 3, "concurrency": 32, "questions": 300},
}


def main() -> None:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("what", choices=[*CASES, "restart"], help="which benchmark")
    add("--turns", type=int, default=3, help="latency, slow: runs of each contender")
    add("--answers", type=int, default=100_000, help="restart: answers in the journal")
    options = parser.read()
    os.environ |= {"OPENAI_API_KEY": "any", "no_proxy": "127.0.0.1"}
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "restart":
            _restart(Path(folder), options.answers)
        elif options.what == "limit":
            _limit(Path(folder), CASES["limit"])
        else:
            _against_bare_client(Path(folder), CASES[options.what], options.turns)


def _against_bare_client(folder: Path, case: dict[str, Any], turns: int) -> None:
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    with _server(folder, case) as port:
        config = _prepared(folder, case, port)
        for turn in range(turns):
            output = _run_of_its_own(folder, config, f"turn{turn}")
            seconds["ours"].append(_figures(port)["seconds"])
            payloads = _payloads(output)
            client = [HERE / "contenders" / "bare_client.py", f"http://127.0.0.1:{port}/v1"]
            _python(*client, payloads, case["concurrency"])
            seconds["bare"].append(_figures(port)["seconds"])
            print({name: f"{each[-1]:.1f} s" for name, each in seconds.items()}, flush=True)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    ours, bare = medians["ours"], medians["bare"]
    for name, median in medians.items():
        print(f"{name:>12} {median:6.1f} s {case['questions'] / median:6.0f} requests/s")
    print(f"{bare / ours:.2f} x the bare client's speed, {ours / bare:.2f} x its time")


def _limit(folder: Path, case: dict[str, Any]) -> None:
    with _server(folder, case) as port:
        _run_of_its_own(folder, _prepared(folder, case, port), "turn")
        figures = _figures(port)
    best = (figures["answered"] - case["burst"]) / case["rate"]
    print(
        f"{figures['answered']} answers in {figures['seconds']:.1f} s, {figures['refused']} "
        f"refused: {best / figures['seconds']:.0%} of the limit of {case['rate']} requests/s"
    )


def _prepared(folder: Path, case: dict[str, Any], port: int) -> Path:
    """Write a configuration and make its segment store; return the configuration."""
    config = folder / "config.yaml"
    config.write_text(
        "writer: openai\ncorpus: {source: python}\nsegments: {min_tokens: 48}\n"
        f"mixture: {{fine_grained: {case['questions']}, integration: 0, short: 0}}\n"
        f"openai: {{model: gpt-4o-mini, base_url: 'http://127.0.0.1:{port}/v1', "
        f"concurrency: {case['concurrency']}}}\n"
    )
    _synthesize(config, folder / "x.jsonl", "--dry-run")
    return config


def _run_of_its_own(folder: Path, config: Path, name: str) -> Path:
    """Run a synthesis that finds its store, but no answer; return its output."""
    output = folder / name / "x.jsonl"
    output.parent.mkdir()
    shutil.copytree(folder / "x.jsonl.segments", f"{output}.segments")
    shutil.copy(folder / "x.jsonl.dropped_documents.jsonl", output.parent)
    _synthesize(config, output)
    return output


def _payloads(output: Path) -> Path:
    path = output.with_name("payloads.jsonl")
    with contextlib.closing(Journal(journal_path(output))) as journal:
        lines = [json.dumps(payload) + "\n" for payload, _ in journal.entries()]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def _synthesize(config: Path, output: Path, *more: str) -> None:
    _python("-m", "megatron_in2", "synthesize", "--config", config, "--output", output, *more)


def _python(*arguments: object) -> None:
    command = [sys.executable, *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def _server(folder: Path, options: dict[str, Any]) -> Iterator[int]:
    """Start the server process; yield its port."""
    port_file = folder / "port"
    script = HERE / "contenders" / "chat_server.py"
    process = subprocess.Popen([sys.executable, script, port_file, json.dumps(options)])
    try:
        while not port_file.exists():
            if process.poll() is not None:
                raise RuntimeError("the server did not start")
            time.sleep(0.05)
        yield int(port_file.read_text())
    finally:
        process.kill()
        process.wait()


def _figures(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=30) as reply:
        figures: dict[str, Any] = json.load(reply)
        return figures


def _restart(folder: Path, answers: int) -> None:
    tokenizer = load_tokenizer("mistral-v1")
    config = SynthesisConfig(
        corpus=CorpusConfig(source="python"),
        writer="openai",
        openai=OpenAIConfig(model="gpt-4o-mini", base_url="http://127.0.0.1:9/v1"),  # not asked
    )
    store = _large_store(folder / "store", answers)
    walk = EvidenceWalk(store, config.composition.max_tokens, config.seed)
    output = folder / "x.jsonl"
    _fill_journal(config, walk, output, answers)
    for what in ("all checked again, as after a changed filter", "as a run that was stopped"):
        started, asked = time.process_time(), 0
        writer = build_writer(config, tokenizer, output, None)
        with QuestionStage(writer, config.filters) as stage:
            lane = Lane("fine_grained", walk.candidates("fine_grained"), answers)
            template = load_template(config.template, tokenizer, config.wording)
            admit = Admission(template, tokenizer, store, config.composition)
            decisions = writer.decisions("the same in both turns")
            for _ in stage.questions([lane], admit, Rejects(io.StringIO()), decisions):
                asked += 1
        seconds = time.process_time() - started
        each = seconds / answers
        print(
            f"{what}: {asked - 1:,} answers found in {seconds:.1f} s of processor time, "
            f"{1e6 * each:.0f} microseconds each; 1.4 million: {1.4e6 * each / 60:.1f} minutes"
        )
    size = journal_path(output).stat().st_size
    print(f"{size / answers / 1000:.2f} KB of journal a question")


def _large_store(path: Path, segments: int) -> SegmentStore:
    """Write a store of so many distinct segments of 128 tokens and more."""
    tokenizer = load_tokenizer("mistral-v1")
    cut = [
        split_into_segments(Document("", text), tokenizer, 128, 512) for _, text in python_texts()
    ]

    def documents() -> Iterator[tuple[str, list[tuple[str, list[int]]]]]:
        written, number = 0, 0
        while written < segments:
            own = cut[number % len(cut)]
            # A number makes each distinct; their ids are not looked at here.
            yield f"{number:016x}", [(f"{number} {text}", ids) for text, ids in own]
            written, number = written + len(own), number + 1

    return write_store(path, documents(), tokenizer)


def _fill_journal(config: SynthesisConfig, walk: EvidenceWalk, output: Path, answers: int) -> None:
    """Write answers to the questions that a run will ask, as the server would give them."""
    completion = runpy.run_path(str(HERE / "contenders" / "chat_server.py"))["completion"]
    tokenizer, prompts = load_tokenizer("mistral-v1"), load_prompts("strict")
    maker = RequestMaker(config.openai, prompts, tokenizer)
    journal = Journal(journal_path(output), prompts.joined())
    usable = (each for each in walk.candidates("fine_grained") if isinstance(each, Evidence))
    for chunk in iter_chunks(usable, 10_000):
        with journal.transaction():
            for evidence in chunk:
                request = question_request(maker, evidence)
                attempt = journal.begin(request.key, request.payload, 0.001)
                reply = completion(request.key.hex()).encode()
                journal.finish(attempt, request.key, reply, 0.0001, 70)
    journal.close()


if __name__ == "__main__":
    run_command(main)
