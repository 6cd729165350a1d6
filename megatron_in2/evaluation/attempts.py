"""Draws attempts from a Hugging Face checkpoint: sampled answers to the prompts of samples.

The prompt is computed once for all tries. Shape letters: N tries, P prompt tokens.
"""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from megatron_in2.data.packing.encoding.encode import SampleEncoder
from megatron_in2.evaluation.probing.checkpoint_answers import CheckpointAnswerer
from megatron_in2.records import ContextPart, EncodedSample, JoinedPart, Sample, id_hash
from megatron_in2.synthesis.self_correction.config import SelfCorrectionConfig
from megatron_in2.synthesis.self_correction.tasks import Drawn, Task, stored_texts
from megatron_in2.templates.base import Template
from megatron_in2.templates.ids import end_id


class CheckpointAttempts:
    """Draws attempts from a checkpoint on this machine's GPU, if it has one, else on its CPU.

    Args:
        answerer: holds the model and its tokenizer.
        template: under which the samples are written.
        config: how attempts are drawn. A sample's attempts depend on the seed and its id, not on
            the samples before it.
    """

    def __init__(
        self, answerer: CheckpointAnswerer, template: Template, config: SelfCorrectionConfig
    ) -> None:
        self.identity = {**answerer.identity, "template_sha256": template.sha256}
        self._model = answerer.model
        self._tokenizer = answerer.tokenizer
        self._end_id = end_id(template, answerer.tokenizer)
        self._encoder = SampleEncoder(answerer.tokenizer)
        self._config = config

    def draw(self, tasks: Iterable[Task]) -> Iterator[Drawn]:
        """Yield what was drawn for each task, in order."""
        longest = self._model.config.max_position_embeddings
        for task in tasks:
            if task.problem is not None:
                yield Drawn(problem=task.problem)
                continue
            prompt = prompt_ids(self._encoder.encode(as_text(task.sample)))
            if len(prompt) + self._config.max_new_tokens > longest:
                yield Drawn(problem="prompt and attempt are longer than the model takes")
                continue
            yield self._drawn(self._sampled(prompt, task.sample.id))

    def _drawn(self, rows: list[list[int]]) -> Drawn:
        ended = [row[: row.index(self._end_id)] for row in rows if self._end_id in row]
        texts = tuple(self._tokenizer.decode(row).strip() for row in ended)
        return Drawn(texts, len(rows) - len(ended))

    @torch.inference_mode()
    def _sampled(self, prompt: npt.NDArray[np.int64], sample_id: str) -> list[list[int]]:
        """Return the new ids of each try, [N][at most max_new_tokens]."""
        config, device = self._config, self._model.device
        ids_NP = torch.from_numpy(prompt).to(device).expand(config.tries, -1)
        sampling: dict[str, Any] = {"do_sample": False}
        if config.temperature:
            sampling = {
                "do_sample": True,
                "temperature": config.temperature,
                "top_p": config.top_p,
                "top_k": 0,  # not the 50 of generation's own defaults
            }
        with torch.random.fork_rng():
            torch.manual_seed(id_hash(f"{config.seed}/{sample_id}") % 2**63)
            output = self._model.generate(
                ids_NP,
                attention_mask=torch.ones_like(ids_NP),
                past_key_values=self._cache(ids_NP[:1, :-1]),
                max_new_tokens=config.max_new_tokens,
                eos_token_id=self._end_id,
                pad_token_id=self._tokenizer.eos_id,
                **sampling,
            )
        rows: list[list[int]] = output[:, len(prompt) :].tolist()
        return rows

    def _cache(self, prefix_1P: torch.Tensor) -> Any:
        """Return the keys and values of the prompt but its last token, once for each try."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self._model.config)
        if prefix_1P.shape[1]:
            self._model(prefix_1P, past_key_values=cache, logits_to_keep=1)
            cache = copy.deepcopy(cache)
            cache.batch_repeat_interleave(self._config.tries)
        return cache


def as_text(sample: Sample) -> Sample:
    """Return a recipe with its context as text, and any other sample as it is.

    The model's tokenizer may be another one than that of the segment store: an export of a run
    with a SentencePiece file has a ``tokenizer.json``.

    Raises:
        InputError: the store is missing or damaged, or lacks a segment.
    """
    parts = tuple(
        _context_part(part) if isinstance(part, JoinedPart) else part for part in sample.parts
    )
    return replace(sample, parts=parts, stated_tokens=None)


def _context_part(part: JoinedPart) -> ContextPart:
    context = "\n".join(stored_texts(part.store, part.segments))
    return ContextPart(part.before, context, part.after, follows=part.follows)


def prompt_ids(sample: EncodedSample) -> npt.NDArray[np.int64]:
    """Return the ids [P] before the last answer: what generation begins with."""
    starts = np.flatnonzero(np.diff(sample.loss_mask.astype(np.int8), prepend=0) == 1)
    return sample.tokens[: int(starts[-1])].astype(np.int64)
