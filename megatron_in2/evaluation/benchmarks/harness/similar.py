"""Few-shot examples chosen by similarity to the question, as the paper's GSM8K and MATH have."""

from typing import Any

import bm25s  # type: ignore[import-untyped]
from lm_eval.api.samplers import ContextSampler  # type: ignore[import-untyped]
from lm_eval.api.task import ConfigurableTask  # type: ignore[import-untyped]

_QUESTION_FIELDS = ("question", "problem")  # GSM8K's, MATH's


class MostSimilar(ContextSampler):  # type: ignore[misc]
    """Draws the examples whose questions are most like ``asked``, the most similar one last.

    Similarity is BM25 over the words of the questions: the measure that the paper used is not
    published. Equal ones come in the order of the training set.
    """

    asked: dict[str, Any]
    _index: Any = None

    def sample(self, n: int, eval_doc: Any = None, df: Any = None, **_: Any) -> list[Any]:
        """Return ``n`` examples for ``asked``."""
        examples = self.fewshot_docs()
        if self._index is None:
            self._index = bm25s.BM25()
            texts = [_question(example) for example in examples]
            self._index.index(_words(texts), show_progress=False)
        words = set(_words([_question(self.asked)])[0])
        known = sorted(words & set(self._index.vocab_dict))
        scores = self._index.get_scores(known) if known else [0.0] * len(examples)
        order = sorted(range(len(examples)), key=lambda place: (-scores[place], place))
        return [examples[place] for place in reversed(order[:n])]


class TaskWithSimilarExamples(ConfigurableTask):  # type: ignore[misc]
    """A task of the harness that tells its sampler which question the examples are for."""

    def __init__(self, config: dict[str, Any] | None = None, **others: Any) -> None:
        settings = {name: value for name, value in (config or {}).items() if name != "class"}
        super().__init__(config=settings, **others)

    def fewshot_context(self, doc: dict[str, Any], *arguments: Any, **named: Any) -> Any:
        """Return the prompt for a document."""
        self.sampler.asked = doc
        return super().fewshot_context(doc, *arguments, **named)


def _question(document: dict[str, Any]) -> str:
    return next(str(document[name]) for name in _QUESTION_FIELDS if name in document)


def _words(texts: list[str]) -> Any:
    return bm25s.tokenize(
        texts, token_pattern=r"\w+", stopwords="en", return_ids=False, show_progress=False
    )
