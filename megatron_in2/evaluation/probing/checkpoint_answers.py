"""Answers with a Hugging Face checkpoint: greedy text, and the true answer's likelihood.

Neighbouring probes that ask about one context share its keys and values: the common prefix is
computed once. Shape letters: B probes of a batch, T tokens of a prompt (padded), A of an answer.
"""

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from megatron_in2.errors import InputError
from megatron_in2.evaluation.lines import Line
from megatron_in2.evaluation.probing.encoding import ProbeEncoder
from megatron_in2.templates.load import read_template_beside
from megatron_in2.templates.own import OwnTemplate, own_template
from megatron_in2.templates.wordings import WORDINGS
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import load_tokenizer

_LARGEST_GROUP = 64  # probes encoded ahead; by then the prefix's price is spread thin
_WORTH_SHARING = 0.5  # of a prompt


@dataclass(frozen=True)
class _Encoded:
    """A probe by the training's token rule: prompt and answer encoded apart.

    ``answer`` ends with the end-of-sequence id; empty where the probe names no true answer.
    """

    prompt: npt.NDArray[np.int64]
    answer: npt.NDArray[np.int64]


class CheckpointAnswerer:
    """A Hugging Face checkpoint on this machine's GPU, if it has one, else on its CPU.

    A prediction has ``samples`` and, where the probe has ``completion``,
    ``answer_log_likelihood`` (natural log, of the true answer with its end-of-sequence, teacher
    forced) and ``answer_tokens``.

    Args:
        folder: the checkpoint, its tokenizer's files with it.
        batch_size: probes answered at a time.
        share_prefix: compute what neighbouring prompts have in common only once.

    Raises:
        InputError: the folder is no such checkpoint, or a number is below 1.
    """

    def __init__(
        self, folder: Path, max_new_tokens: int, batch_size: int = 1, share_prefix: bool = True
    ) -> None:
        if min(max_new_tokens, batch_size) < 1:
            raise InputError("--max-new-tokens and --batch-size: give 1 or more")
        self.folder = folder
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.share_prefix = share_prefix
        self.model, self.tokenizer = _load(folder)
        template = read_template_beside(folder) or _own_template(self.tokenizer)
        self._encoder = ProbeEncoder(self.tokenizer, template, str(folder))
        self.identity = {"weights": _fingerprint(folder), "max_new_tokens": max_new_tokens}

    def answer(self, probes: list[Line]) -> Iterator[dict[str, Any]]:
        """Yield one prediction a probe.

        Raises:
            InputError: a probe is longer than the model can take.
        """
        for prefix, group in self._groups(self._encode(probe) for probe in probes):
            cache = self._prefill(group[0].prompt[:prefix])
            # Padding would take up a part of a sliding window: there each is answered alone.
            size = 1 if _forgets(cache, self._longest(group)) else self.batch_size
            for start in range(0, len(group), size):
                batch = group[start : start + size]
                ids, mask = self._padded(batch, prefix)
                questions = copy.deepcopy(cache)
                questions.batch_repeat_interleave(len(batch))
                likelihoods = self._log_likelihoods(batch, ids, mask, questions)
                texts = self._greedy(ids, mask, questions)
                for one, text, likelihood in zip(batch, texts, likelihoods, strict=True):
                    yield _prediction(one, text, likelihood)

    def _longest(self, group: list[_Encoded]) -> int:
        """Return the most tokens that a group's prompts and answers may take."""
        return max(len(one.prompt) + max(len(one.answer), self.max_new_tokens) for one in group)

    def _encode(self, probe: Line) -> _Encoded:
        where, _ = probe
        prompt, answer = self._encoder.ids(probe)
        longest = self.model.config.max_position_embeddings
        needed = len(prompt) + max(len(answer), self.max_new_tokens)
        if needed > longest:
            raise InputError(
                f"{where}: prompt and answer take {needed} tokens, {self.folder} takes {longest}: "
                "build shorter probes"
            )
        return _Encoded(np.array(prompt), np.array(answer, dtype=np.int64))

    def _groups(self, encoded: Iterator[_Encoded]) -> Iterator[tuple[int, list[_Encoded]]]:
        """Gather neighbours that share a prefix worth it.

        Yields:
            (tokens of the prefix, at most all but the last of each prompt; the group).
        """
        group: list[_Encoded] = []
        prefix = 0
        for one in encoded:
            common = _common_prefix(group[0].prompt, one.prompt, prefix) if group else 0
            worth = self.share_prefix and common >= _WORTH_SHARING * len(one.prompt)
            if group and (not worth or len(group) == _LARGEST_GROUP):
                yield prefix, group
                group = []
            prefix = common if group else len(one.prompt) - 1
            group.append(one)
        if group:
            yield prefix, group

    @torch.inference_mode()
    def _prefill(self, prefix: npt.NDArray[np.int64]) -> Any:
        from transformers import DynamicCache

        cache = DynamicCache(config=self.model.config)
        self.model(self._tensor(prefix[None]), past_key_values=cache, logits_to_keep=1)
        return cache

    def _padded(
        self, batch: list[_Encoded], prefix: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Pad prompts between prefix and suffix, so that all end together.

        Returns:
            (prompts; attention mask), [B, T] each.
        """
        width = max(len(one.prompt) for one in batch)
        ids_BT = np.full((len(batch), width), self.tokenizer.eos_id)
        mask_BT = np.zeros_like(ids_BT)
        mask_BT[:, :prefix] = 1
        for ids_T, mask_T, one in zip(ids_BT, mask_BT, batch, strict=True):
            suffix = len(one.prompt) - prefix
            ids_T[:prefix] = one.prompt[:prefix]
            ids_T[width - suffix :] = one.prompt[prefix:]
            mask_T[width - suffix :] = 1
        return ids_BT, mask_BT

    @torch.inference_mode()
    def _log_likelihoods(
        self,
        batch: list[_Encoded],
        ids: npt.NDArray[np.int64],
        mask: npt.NDArray[np.int64],
        cache: Any,
    ) -> list[float]:
        """Return each true answer's; ``cache`` then has all of the prompts but the last token.

        Questions and answers are one pass, after which the answers are taken out of the cache. A
        cache that forgets what left its window cannot give them back: there it stays as it is.
        """
        longest = max(len(one.answer) for one in batch)
        if not longest:
            return [0.0] * len(batch)
        answers_BA = np.full((len(batch), longest), self.tokenizer.eos_id)
        for answer_A, one in zip(answers_BA, batch, strict=True):
            answer_A[: len(one.answer)] = one.answer  # padded behind, where none before looks
        known, forgets = cache.get_seq_length(), _forgets(cache, ids.shape[1] + longest)
        mask = np.concatenate([mask, np.ones_like(answers_BA)], axis=1)[:, :-1]
        logits_BAV = self.model(
            self._tensor(np.concatenate([ids[:, known:], answers_BA[:, :-1]], axis=1)),
            attention_mask=self._tensor(mask),
            position_ids=self._tensor(mask.cumsum(axis=1)[:, known:] - 1),
            past_key_values=copy.deepcopy(cache) if forgets else cache,
            logits_to_keep=longest,
        ).logits
        if not forgets:
            cache.crop(-longest)
        likelihoods = []
        for one, logits_AV in zip(batch, logits_BAV, strict=True):
            logits, targets = logits_AV[: len(one.answer)].float(), self._tensor(one.answer)
            loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
            likelihoods.append(-float(loss))
        return likelihoods

    @torch.inference_mode()
    def _greedy(
        self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64], cache: Any
    ) -> list[str]:
        output = self.model.generate(
            self._tensor(ids),
            attention_mask=self._tensor(mask),
            past_key_values=cache,
            do_sample=False,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=self._encoder.end_id,
            pad_token_id=self.tokenizer.eos_id,
        )
        return [self.tokenizer.decode(row) for row in output[:, ids.shape[1] :].tolist()]

    def _tensor(self, values: npt.NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(values).to(self.model.device)


def _forgets(cache: Any, tokens: int) -> bool:
    """Return whether a cache drops the first of so many tokens: a layer has a sliding window."""
    return any(layer.is_sliding and layer.sliding_window <= tokens for layer in cache.layers)


def _prediction(one: _Encoded, text: str, likelihood: float) -> dict[str, Any]:
    prediction: dict[str, Any] = {"samples": [text]}
    if len(one.answer):
        prediction["answer_log_likelihood"] = likelihood
        prediction["answer_tokens"] = len(one.answer)
    return prediction


def _common_prefix(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], limit: int) -> int:
    """Return how many tokens both start with: at most ``limit``, and not all of the second."""
    limit = min(limit, len(first), len(second) - 1)
    differ = np.flatnonzero(first[:limit] != second[:limit])
    return int(differ[0]) if len(differ) else limit


def _fingerprint(folder: Path) -> dict[str, list[int]]:
    """Tell weights apart without reading gigabytes: each file's size and time."""
    files = sorted(itertools.chain(folder.glob("*.safetensors"), folder.glob("*.bin")))
    return {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files}


def _own_template(tokenizer: Tokenizer) -> OwnTemplate | None:
    """Return the model's own chat template; None where probes cannot be written with it."""
    try:
        return own_template(tokenizer, WORDINGS["plain"])
    except InputError:
        return None


def _load(folder: Path) -> tuple[Any, Tokenizer]:
    from transformers import AutoModelForCausalLM

    if not (folder / "config.json").is_file():
        remedy = "name an exported one"
        if (folder / "complete.json").is_file() or any(folder.glob("iter_*")):
            remedy = (
                "it is a Megatron checkpoint; export it first: in2 convert megatron-to-hf "
                f"--input {folder} --output HF_DIR"
            )
        raise InputError(f"{folder} is no Hugging Face checkpoint (no config.json): {remedy}")
    tokenizer = load_tokenizer(str(folder))
    on_gpu = torch.cuda.is_available()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16 if on_gpu else torch.float32
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    return model.to("cuda" if on_gpu else "cpu").eval(), tokenizer
