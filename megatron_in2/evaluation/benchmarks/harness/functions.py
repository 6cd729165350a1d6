"""What the task files call: prompts by the run's template, scores by the published metrics."""

from functools import partial
from typing import Any

from megatron_in2.evaluation.benchmarks import metrics
from megatron_in2.evaluation.benchmarks.prompting import current_template

Document = dict[str, Any]


def _long_prompt(document: Document, instruction: str) -> str:
    """Put LongBench's context and question into the template; summaries ask no question."""
    question = document.get("question", document.get("input", ""))
    asked = instruction.format(question=question).strip()
    return current_template().prompt(asked, document["context"])


_SHORT_ANSWER = "Answer the question based on the {source}. Give only a short answer."
_QUESTION = "\nQuestion: {{question}}"

story_prompt = partial(
    _long_prompt, instruction=(_SHORT_ANSWER + _QUESTION).format(source="given story")
)
article_prompt = partial(
    _long_prompt,
    instruction=(
        _SHORT_ANSWER
        + ' If the article does not tell, answer "unanswerable"; answer a yes/no question by "yes" '
        'or "no".' + _QUESTION
    ).format(source="given scientific article"),
)
passages_prompt = partial(
    _long_prompt, instruction=(_SHORT_ANSWER + _QUESTION).format(source="given passages")
)
report_prompt = partial(_long_prompt, instruction="Write a one-page summary of the report.")
meeting_prompt = partial(
    _long_prompt,
    instruction="Answer the query based on the meeting transcript.\nQuery: {question}",
)
_BY_EXAMPLES = " Follow the examples.\n{question}"  # the context holds examples, solved
type_prompt = partial(
    _long_prompt, instruction="Determine the type of the question below." + _BY_EXAMPLES
)
trivia_prompt = partial(
    _long_prompt,
    instruction="Answer the question based on the given passage. Give only the answer."
    + _BY_EXAMPLES,
)
dialogue_prompt = partial(
    _long_prompt, instruction="Summarize the dialogue into a few short sentences." + _BY_EXAMPLES
)
news_prompt = partial(_long_prompt, instruction="Write a one-page summary of all the news.")


def choice_prompt(document: Document) -> str:
    """Return CSQA's published prompt: the answer's first words follow the template."""
    choices = document["choices"]
    candidates = "".join(
        f"{letter}: {text}\n"
        for letter, text in zip(choices["label"], choices["text"], strict=True)
    )
    instruction = (
        f"Answer the following question.\nQuestion: {document['question']}\n"
        f"Candidates:\n{candidates}Choose one answer from {' / '.join(choices['label'])}."
    )
    return f"{current_template().prompt(instruction, None)}\nThe answer is"


def with_template(documents: Any) -> Any:
    """Add what comes before and after the examples and the question: the template, cut open."""
    head, tail = current_template().prompt("\0", None).split("\0")
    return documents.map(lambda _: {"template_head": head, "template_tail": tail})


def gsm8k_solution(document: Document) -> str:
    """Return an example's solution without calculator marks, its result after fixed words."""
    worked, result = document["answer"].split("####")
    while "<<" in worked:
        before, marked = worked.split("<<", 1)
        worked = before + marked.split(">>", 1)[1]
    return f"{worked.strip()} The answer is {result.strip()}."


def question_f1(document: Document, results: list[str]) -> dict[str, float]:
    """Score by :func:`megatron_in2.evaluation.benchmarks.metrics.question_f1`."""
    return {"score": metrics.question_f1(results[0], document["answers"])}


def rouge_l(document: Document, results: list[str]) -> dict[str, float]:
    """Score by :func:`megatron_in2.evaluation.benchmarks.metrics.rouge_l`."""
    return {"score": metrics.rouge_l(results[0], document["answers"])}


def class_found(document: Document, results: list[str]) -> dict[str, float]:
    """Score by :func:`megatron_in2.evaluation.benchmarks.metrics.class_found`."""
    classes = document["all_classes"]
    return {
        "score": max(
            metrics.class_found(results[0], answer, classes) for answer in document["answers"]
        )
    }


def first_line_f1(document: Document, results: list[str]) -> dict[str, float]:
    """Score the first line by :func:`question_f1`."""
    return question_f1(document, [metrics.first_line(results[0])])


def first_line_rouge_l(document: Document, results: list[str]) -> dict[str, float]:
    """Score the first line by :func:`rouge_l`."""
    return rouge_l(document, [metrics.first_line(results[0])])


def choice_found(document: Document, results: list[str]) -> dict[str, float]:
    """Score by :func:`megatron_in2.evaluation.benchmarks.metrics.choice_found`."""
    candidates = document["choices"]["text"]
    answer = candidates[document["choices"]["label"].index(document["answerKey"])]
    return {"score": metrics.choice_found(results[0], answer, candidates)}


def final_number_matches(document: Document, results: list[str]) -> dict[str, float]:
    """Score by :func:`megatron_in2.evaluation.benchmarks.metrics.final_number_matches`."""
    return {"score": metrics.final_number_matches(results[0], gsm8k_solution(document))}


def formula_matches(document: Document, results: list[str]) -> dict[str, float]:
    """Score by :func:`megatron_in2.evaluation.benchmarks.metrics.formula_matches`."""
    return {"score": metrics.formula_matches(results[0], document["solution"])}
