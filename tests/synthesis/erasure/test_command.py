"""The whole of it through the command and a real server: pilot, choice, answers, drops, kills."""

import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megatron_in2.data.packed.dataset import PackedDataset
from megatron_in2.data.packing.config import PreprocessConfig
from megatron_in2.data.packing.preprocess import preprocess
from megatron_in2.files import read_json, read_json_lines
from megatron_in2.tokenizers.base import Tokenizer
from tests.conftest import ROOT, RunTool, assert_refused
from tests.synthesis.erasure.conftest import (
    LINES,
    QUOTE,
    STEPS,
    Teacher,
    right_by_kind,
    task_record,
)


@pytest.fixture
def command(teacher: Teacher, strategies: Path, samples: Path, tmp_path: Path) -> list[object]:
    return [
        *("synthesize_in2", "erasure", "--teacher-url", teacher.url, "--teacher-model", "m"),
        *("--samples", samples, "--output", tmp_path / "out" / "y.jsonl"),
        *("--strategies", strategies, "--judge", "exact", "--concurrency", "2"),
    ]


def _choice(tmp_path: Path) -> dict[str, str]:
    lines = (tmp_path / "out" / "y.jsonl.choice.yaml").read_text().splitlines()
    pairs = (line.partition("#")[0].split(":") for line in lines if not line.startswith("#"))
    return {kind.strip(): name.strip() for kind, name in pairs}


def test_each_kind_gets_the_strategy_that_is_right_for_it(
    run_here: RunTool, command: list[object], teacher: Teacher, tmp_path: Path
) -> None:
    assert_refused(run_here(*command), "y.jsonl.choice.yaml does not exist", "--pilot 50")
    assert not teacher.asked
    pilot = run_here(*command, "--pilot", 4)
    assert pilot.returncode == 0, pilot.stderr
    assert len(teacher.asked) == 16
    assert _choice(tmp_path) == {"lookup": "quote", "parts": "null", "sum": "steps"}
    printed = " ".join(pilot.stdout.split())
    assert "lookup * quote 4 of 4 right (100%)" in printed
    assert "lookup steps 0 of 4 right (0%)" in printed
    scores = read_json(tmp_path / "out" / "y.jsonl.pilot.json")["kinds"]["lookup"]["strategies"]
    assert scores["steps"]["not_used"] == {"wrong final answer": 4}
    tried = [each for _, each in read_json_lines(tmp_path / "out" / "y.jsonl.pilot.jsonl")]
    assert [each["right"] for each in tried] == [each["problem"] is None for each in tried]
    assert {each["final_answer"] for each in tried if each["strategy"] == "steps"} >= {"grey"}
    assert_refused(run_here(*command, "--pilot", 4), "choice.yaml already exists: pass --overwrite")

    # Control: a teacher that does the opposite gets the opposite choice, and one that is always
    # wrong none.
    swapped = {QUOTE: STEPS, STEPS: QUOTE}
    teacher.says = lambda system, message, number: right_by_kind(
        next(swapped[each] for each in swapped if each in system), message, number
    )
    again = (*command[:-2], "--concurrency", 3, "--pilot", 4, "--overwrite", "--teacher-model")
    assert run_here(*again, "other").returncode == 0
    assert _choice(tmp_path) == {"lookup": "steps", "parts": "null", "sum": "quote"}
    teacher.says = lambda system, message, number: "Final answer: never"
    assert run_here(*again, "third").returncode == 0
    assert set(_choice(tmp_path).values()) == {"null"}


def test_the_student_gets_the_context_and_the_teacher_the_evidence(
    run_here: RunTool, command: list[object], teacher: Teacher, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    output = tmp_path / "out" / "y.jsonl"
    assert run_here(*command, "--pilot", 3).returncode == 0
    result = run_here(*command)
    assert result.returncode == 0, result.stderr
    assert "lookup quote 16 of 16 right (100%)" in " ".join(result.stdout.split())
    assert "paid calls" in result.stdout
    for prompt in teacher.prompts:
        assert sum(line in prompt for line in LINES) == ("Which colour" in prompt)
    assert len(teacher.asked) == len(teacher.prompts)  # the pilot's answers were used again

    records = {record["id"]: record for _, record in read_json_lines(output)}
    assert len(records) == 40
    answer = "It is about pier 0, so it follows.\nFinal answer: tone0"
    text, recipe, chat, plain, parts = (records[f"s{n}"] for n in (0, 1, 7, 8, 4))
    assert text["context"] == "\n".join(LINES)
    assert (text["strategy"], text["system"], text["answer"]) == ("quote", QUOTE, answer)
    assert recipe["segments"] == list(range(8))
    assert (output.parent / recipe["store"]).resolve() == tmp_path / "in" / "x.segments"
    assert "n_tokens" not in recipe
    assert chat["messages"][0] == {"role": "system", "content": f"{STEPS}\n\nCount in tens."}
    assert chat["messages"][-1]["content"].endswith("Final answer: 14")
    assert plain["system"] == STEPS
    assert parts == task_record(4, tmp_path / "in" / "x.segments")
    report = read_json(output.with_name("y.jsonl.report.json"))
    assert report["samples"] == {"erased": 32, "as it was": 8}
    assert (report["kinds"]["sum"]["right"], report["kinds"]["sum"]["tried"]) == (16, 16)
    _check_rows(output, tmp_path / "packed", tokenizer)


def _check_rows(samples: Path, prefix: Path, tokenizer: Tokenizer) -> None:
    """In packed rows no prompt is left, and every reasoned answer is what is trained on."""
    for design in ("prompt-erasing", "answer"):
        config = PreprocessConfig(
            [samples],
            prefix.with_name(design),
            tokenizer_model="mistral-v1",
            seq_length=512,
            design=design,
        )
        preprocess(config)
        dataset = PackedDataset(prefix.with_name(design))
        rows = [dataset[index] for index in range(len(dataset))]
        ids = list(itertools.chain.from_iterable(row.tokens.tolist() for row in rows))
        whole = tokenizer.decode(ids)
        erased = design == "prompt-erasing"
        assert (QUOTE in whole) == (STEPS in whole) == ("Count in tens." in whole) == (not erased)
        assert whole.count("You are a helpful assistant.") == (32 if erased else 0)
        trained = [
            int(token)
            for row in rows
            for token, learn in zip(row.tokens, row.loss_mask, strict=True)
            if learn
        ]
        said = [record for _, record in read_json_lines(samples) if "strategy" in record]
        answers = [
            each["messages"][-1]["content"] if "messages" in each else each["answer"]
            for each in said
        ]
        lengths = sum(len(tokenizer.encode(each)) + 1 for each in answers)
        assert len(trained) == lengths + sum(len(tokenizer.encode(str(2 * n))) + 1
                                             for n in range(4, 40, 5))  # fmt: skip


def test_a_stopped_run_goes_on_to_the_same_bytes(
    run_here: RunTool, command: list[object], teacher: Teacher, tmp_path: Path
) -> None:
    output = tmp_path / "out" / "y.jsonl"
    assert run_here(*command, "--pilot", 3).returncode == 0
    pilot_calls = len(teacher.asked)
    teacher.refuse_after = pilot_calls + 5
    assert_refused(run_here(*command), "HTTP 401")
    assert not output.exists()
    drained = len(teacher.asked)
    teacher.refuse_after = drained + 4
    assert_refused(run_here(*command), "HTTP 401")
    teacher.refuse_after = None
    assert run_here(*command).returncode == 0
    # 32 answers, and 6 of the pilot by the other strategy: none is paid for twice.
    assert teacher.answered == len(teacher.prompts) == 38
    first = output.read_bytes(), output.with_name("y.jsonl.report.json").read_bytes()

    whole = tmp_path / "out" / "whole.jsonl"
    choice = output.with_name("y.jsonl.choice.yaml")
    arguments = [*command, "--choice", choice, "--output", whole]
    assert run_here(*arguments).returncode == 0
    assert whole.read_bytes() == first[0]
    assert whole.with_name("whole.jsonl.report.json").read_bytes() == first[1]


@pytest.mark.slow
def test_a_killed_process_loses_no_answer(
    run_here: RunTool, command: list[object], teacher: Teacher, tmp_path: Path
) -> None:
    output = tmp_path / "out" / "y.jsonl"
    assert run_here(*command, "--pilot", 3).returncode == 0
    pilot_calls, processes = len(teacher.asked), []
    name, *options = map(str, command)

    def kill(count: int) -> None:
        if count == pilot_calls + 9:
            processes[0].kill()

    teacher.seen = kill
    script = str(ROOT / "tools" / f"{name}.py")
    processes.append(subprocess.Popen([sys.executable, script, *options]))
    assert processes[0].wait(120) == -signal.SIGKILL
    assert not output.exists()
    teacher.seen = lambda count: None
    assert run_here(*command).returncode == 0
    # What the killed process waited for is asked again: at most as many as were under way.
    assert len(teacher.prompts) == 38
    assert 38 <= len(teacher.asked) <= 38 + 2
    whole = tmp_path / "out" / "whole.jsonl"
    choice = output.with_name("y.jsonl.choice.yaml")
    assert run_here(*command, "--choice", choice, "--output", whole).returncode == 0
    assert whole.read_bytes() == output.read_bytes()


def test_of_equal_strategies_the_cheaper_is_chosen_and_money_is_limited(
    run_here: RunTool, command: list[object], teacher: Teacher, tmp_path: Path
) -> None:
    prices = tmp_path / "prices.yaml"  # a dollar a token
    prices.write_text(
        "as_of: 2026-01-01\nbatch_factor: 1\nmodels: {m: {input: 1000000.0, output: 1000000.0}}\n"
    )
    command += ["--prices", prices]

    def says(system: str, message: str, number: int) -> str:
        found = f"tone{number}" if "Which colour" in message else str(2 * number)
        return f"{'So, so, so. ' if QUOTE in system else ''}Final answer: {found}"

    teacher.says, teacher.usage = says, lambda content: len(content.split())
    assert run_here(*command, "--pilot", 4).returncode == 0
    assert _choice(tmp_path) == {"lookup": "steps", "parts": "null", "sum": "steps"}
    pilot = read_json(tmp_path / "out" / "y.jsonl.pilot.json")["kinds"]["lookup"]["strategies"]
    assert (pilot["quote"]["cost"], pilot["steps"]["cost"]) == (4 * 16, 4 * 13)
    before, spent = len(teacher.asked), 8 * (16 + 13)
    # Every request may cost 1,024 dollars and its prompt: then the run stops.
    assert_refused(run_here(*command, "--max-cost", spent + 1300), "stopped before --max-cost")
    assert before < len(teacher.asked) < before + 24
    result = run_here(*command)
    assert result.returncode == 0
    assert read_json(tmp_path / "out" / "y.jsonl.report.json")["cost"] == 32 * 13
    assert "40 answers, $" + format(8 * 16 + 32 * 13, ".4f") in " ".join(result.stdout.split())


HOSTILE = {
    0: "",
    1: "Final answer:",
    2: "no mark at all, tone2",
    3: "\ud800 Final answer: tone3",
    4: "Final answer: tone4\x00",
    5: "x" * 50_000 + "Final answer: tone5",
    6: f"{QUOTE}\nFinal answer: tone6",
    7: "As I was told to quote: Final answer: tone7",
}
REASONS = {
    "empty reply": 2,
    "empty final answer": 2,
    "final answer is not marked": 2,
    "unreadable characters": 4,
    "reply too long": 2,
    "repeats the erased prompt": 2,
    "speaks of its instructions": 2,
}


def test_hostile_replies_are_dropped_with_their_reasons(
    run_here: RunTool, command: list[object], teacher: Teacher, tmp_path: Path
) -> None:
    def hostile(system: str, message: str, number: int) -> str:
        colour = "Which colour" in message
        return HOSTILE[number] if colour else right_by_kind(system, message, number)

    teacher.says, teacher.usage = hostile, lambda content: 5
    (tmp_path / "choice.yaml").write_text("lookup: quote\nsum: steps\nparts: null\nold: steps\n")
    result = run_here(*command, "--choice", tmp_path / "choice.yaml")
    assert result.returncode == 0, result.stderr
    assert "old" not in result.stdout
    output = tmp_path / "out" / "y.jsonl"
    report = read_json(output.with_name("y.jsonl.report.json"))
    assert report["dropped"] == REASONS
    assert report["kinds"]["lookup"]["right"] == 0
    rejects = [each for _, each in read_json_lines(output.with_name("y.jsonl.rejects.jsonl"))]
    assert len(rejects) == 16
    assert {each["strategy"] for each in rejects} == {"quote"}
    kinds = [record["kind"] for _, record in read_json_lines(output)]
    assert sorted(set(kinds)) == ["parts", "sum"]
    assert "lookup quote 0 of 16 right (0%)" in " ".join(result.stdout.split())


def test_a_choice_that_cannot_be_used_costs_nothing(
    run_here: RunTool, command: list[object], teacher: Teacher, samples: Path, tmp_path: Path
) -> None:
    choice = tmp_path / "choice.yaml"
    arguments = [*command, "--choice", choice]
    for text, words in (
        ("lookup: quote\nsum: step\n", "field 'sum': no strategy 'step': use quote, steps or null"),
        ("lookup: quote\nsum: [steps]\n", "field 'sum': no strategy ['steps']: use quote"),
        ("lookup: quote\n", "has no strategy for 'parts', 'sum'"),
        ("- quote\n", "give one line KIND: STRATEGY"),
        ("{", "is not readable as YAML"),
    ):
        choice.write_text(text)
        assert_refused(run_here(*arguments), words)
    choice.write_text("lookup: null\nsum: quote\nparts: steps\n")
    teacher.says = lambda system, message, number: "Final answer: never"
    samples.write_text("".join(samples.read_text().splitlines(keepends=True)[2:5]))
    assert_refused(run_here(*arguments), "no sample is left of 3: 2 wrong final answer, 1 a sample")
    assert len(teacher.asked) == 2
    record: dict[str, Any] = {"id": "a", "kind": "sum", "question": "1 + pier 1?", "answer": "2"}
    samples.write_text(json.dumps({**record, "strategy": "quote", "system": "Quote."}))
    assert_refused(run_here(*arguments), "x.jsonl:1: field 'strategy' is given")
    samples.write_text(json.dumps(record))
    assert_refused(run_here(*command, "--judge", "model"), "give --judge-model")
    assert_refused(run_here(*command, "--kind-judges", "sum=odd"), "--kind-judges sum=odd: use")
    assert_refused(run_here(*command, "--kind-judges", "sum"), "give KIND=JUDGE")
    named = run_here(*command, "--kind-judges", "sums=exact")
    assert_refused(named, "--kind-judges sums=exact: no sample is of this kind: use sum")


def test_samples_of_another_store_are_refused_in_one_line(
    run_here: RunTool, command: list[object], teacher: Teacher, samples: Path
) -> None:
    record = {**task_record(1, samples.with_name("x.segments")), "segments": [99]}
    samples.write_text(json.dumps({**record, "evidence": [0]}))
    assert_refused(run_here(*command, "--pilot", 1), "segment 99 is beyond the 8 of ")
    samples.write_text("")
    assert_refused(run_here(*command, "--pilot", 1), f"--samples {samples} holds no sample")
    assert not teacher.asked


def test_kinds_have_judges_of_their_own(
    run_here: RunTool, command: list[object], teacher: Teacher, samples: Path, tmp_path: Path
) -> None:
    """One kind by its number, one by a model, which is asked about no other."""
    judged: list[str] = []

    def says(system: str, message: str, number: int) -> str:
        if message.startswith("Compare an answer"):
            judged.append(message)
            return json.dumps({"right": "about right" in message})
        colour = "about right" if "Which colour" in message else f"It is {2 * number}, Sir"
        return f"So.\n**Final answer:** {colour}"

    teacher.says = says
    (tmp_path / "choice.yaml").write_text("lookup: quote\nsum: steps\nparts: null\n")
    result = run_here(
        *command,
        *("--choice", tmp_path / "choice.yaml", "--judge-model", "j", "--judge-url", teacher.url),
        *("--kind-judges", "sum=number", "lookup=model"),
    )
    assert result.returncode == 0, result.stderr
    assert len(judged) == 16
    report = read_json(tmp_path / "out" / "y.jsonl.report.json")
    assert {kind: each.get("right") for kind, each in report["kinds"].items()} == {
        "lookup": 16, "sum": 16, "parts": None,
    }  # fmt: skip
