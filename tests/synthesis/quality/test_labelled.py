"""Each check of questions, measured on the hand-labelled sets of ``tests/synthesis/labelled``."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from megatron_in2.synthesis.config import FilterConfig, OpenAIConfig
from megatron_in2.synthesis.quality.names import names_in
from megatron_in2.synthesis.quality.sentences import sentences
from megatron_in2.synthesis.questions.restate import restated
from megatron_in2.synthesis.questions.writer import Citation, Draft
from tools.benchmarks.question_checks import FREE_CHECKS, FreeCheck, measure, read_labelled

JUDGED = {"closed_book": "correct", "verify": "supported"}


@pytest.mark.parametrize(("name", "label"), JUDGED.items())
def test_both_labels_are_as_frequent(name: str, label: str) -> None:
    """So that a judge that always says the same is right half the time."""
    right = sum(line[label] for line in read_labelled(name))
    assert 0.45 < right / len(read_labelled(name)) < 0.55


def test_token_f1_is_no_judge() -> None:
    """Among guesses that share words it is mostly wrong: why a model judges by default."""
    f1 = FREE_CHECKS[0]
    assert FilterConfig().closed_book_judge == "model"
    assert f1.right(f1.check) < len(read_labelled(f1.file)) / 2


@pytest.mark.parametrize("check", FREE_CHECKS[1:], ids=lambda check: check.file)
def test_checks_agree_with_the_labels_and_plain_ones_do_not(check: FreeCheck) -> None:
    print(check)
    lines, right = len(read_labelled(check.file)), check.right(check.check)
    assert right >= 0.9 * lines
    assert check.right(check.naive) <= right - 3


@asynccontextmanager
async def _labelling_server(wrong: int) -> AsyncIterator[str]:
    """Yield the address of a server that answers as the labels say, but for the first lines."""

    async def answer(request: web.Request) -> web.Response:
        prompt = (await request.json())["messages"][0]["content"]
        name = "closed_book" if "from memory" in prompt else "verify"
        said = "guess" if name == "closed_book" else "answer"
        lines = read_labelled(name)
        (place,) = (
            number
            for number, line in enumerate(lines)
            if f"Question: {line['question']}\n" in prompt
            and f"nswer: {line['answer']}\n" in prompt
            and f": {line[said]}" in prompt
            and prompt.rstrip().endswith(line["guess" if name == "closed_book" else "evidence"])
        )
        label = JUDGED[name]
        content = json.dumps({"correct": None, label: lines[place][label] == (place >= wrong)})
        choice = {"message": {"content": content}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        return web.json_response({"id": str(hash(prompt)), "choices": [choice], "usage": usage})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


@pytest.mark.usefixtures("api_key")
@pytest.mark.parametrize("wrong", [0, 4])
def test_a_model_is_measured_by_its_replies(wrong: int) -> None:
    async def run() -> list[tuple[int, int]]:
        async with _labelling_server(wrong) as url:
            agreements = await measure(OpenAIConfig(model="judge", base_url=url), 1.0)
        return [(each.lines, each.wrongly_yes + each.wrongly_no) for each in agreements]

    assert asyncio.run(run()) == [(42, wrong), (30, wrong)]


def test_names_are_found() -> None:
    found = wrong = missed = 0
    for line in read_labelled("names"):
        got, wanted = names_in(line["text"]), set(line["names"])
        found += len(got & wanted)
        wrong += len(got - wanted)
        missed += len(wanted - got)
    print(f"names: {found} found, {wrong} wrong, {missed} missed")
    assert found >= 20
    assert wrong <= 1
    assert missed <= 1


def test_a_restated_answer_begins_with_quotes() -> None:
    draft = Draft("Where?", "In Jena.", (Citation(0, "came  from\nJena"), Citation(1, "a lens")))
    assert restated(draft, ["x"]).answer == "> came from Jena\n> a lens\n\nIn Jena."
    plain = Draft("Where did the telescope come from?", "From Jena.")
    text = "It was large. The telescope came from Jena."
    assert restated(plain, [text]).answer == "> The telescope came from Jena.\n\nFrom Jena."
    assert restated(Draft("Who?", "Nobody."), ["Rain fell."]).answer == "Nobody."


def test_sentences_keep_titles_and_end_with_lines() -> None:
    text = "Dr. Okafor met J. Lund. They spoke!\nA heading\n他走了。她也走了。"
    assert sentences(text) == [
        "Dr. Okafor met J. Lund.", "They spoke!", "A heading", "他走了。", "她也走了。",
    ]  # fmt: skip
