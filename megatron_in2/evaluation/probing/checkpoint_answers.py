"""Answers with a Hugging Face checkpoint: greedy text, and the true answer's likelihood.

Neighbouring probes that ask about one context share its keys and values: the common prefix is
computed once. Shape letters: B probes of a batch, P prefix tokens, S suffix tokens (padded).
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
            for start in range(0, len(group), self.batch_size):
                batch = group[start : start + self.batch_size]
                likelihoods = self._log_likelihoods(batch, prefix, cache)
                texts = self._greedy(batch, prefix, cache)
                for one, text, likelihood in zip(batch, texts, likelihoods, strict=True):
                    yield _prediction(one, text, likelihood)

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

    @torch.inference_mode()
    def _log_likelihoods(self, batch: list[_Encoded], prefix: int, cache: Any) -> list[float]:
        longest = max(len(one.answer) for one in batch)
        if not longest:
            return [0.0] * len(batch)
        rows = [np.concatenate([one.prompt[prefix:], one.answer]) for one in batch]
        ids_BS, mask_BS = self._padded(rows, prefix)
        positions_BS = mask_BS.cumsum(axis=1)[:, prefix:] - 1
        logits_BSV = self.model(
            self._tensor(ids_BS),
            attention_mask=self._tensor(mask_BS),
            position_ids=self._tensor(positions_BS),
            past_key_values=_copied(cache, len(batch)),
            logits_to_keep=longest + 1,  # the head at other places costs more than all else
        ).logits
        likelihoods = []
        for one, logits_SV in zip(batch, logits_BSV, strict=True):
            # Each token predicts the next one, the prompt's last token the answer's first.
            logits = logits_SV[longest - len(one.answer) : longest].float()
            targets = self._tensor(one.answer)
            loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
            likelihoods.append(-float(loss))
        return likelihoods

    @torch.inference_mode()
    def _greedy(self, batch: list[_Encoded], prefix: int, cache: Any) -> list[str]:
        suffixes_BS, mask_BS = self._padded([one.prompt[prefix:] for one in batch], prefix)
        shared_BP = np.repeat(batch[0].prompt[None, :prefix], len(batch), axis=0)
        ids_BS = np.concatenate([shared_BP, suffixes_BS], axis=1)
        output = self.model.generate(
            self._tensor(ids_BS),
            attention_mask=self._tensor(mask_BS),
            past_key_values=_copied(cache, len(batch)),
            do_sample=False,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=self._encoder.end_id,
            pad_token_id=self.tokenizer.eos_id,
        )
        return [self.tokenizer.decode(row) for row in output[:, ids_BS.shape[1] :].tolist()]

    def _padded(
        self, suffixes: list[npt.NDArray[np.int64]], prefix: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Pad suffixes in front, so that all end together.

        Returns:
            (suffixes, [B, S]; attention mask of prefix and suffix, [B, P + S]).
        """
        width = max(map(len, suffixes))
        ids_BS = np.full((len(suffixes), width), self.tokenizer.eos_id)
        mask_BS = np.zeros((len(suffixes), prefix + width), np.int64)
        mask_BS[:, :prefix] = 1
        for ids_S, mask_S, suffix in zip(ids_BS, mask_BS, suffixes, strict=True):
            ids_S[width - len(suffix) :] = suffix
            mask_S[prefix + width - len(suffix) :] = 1
        return ids_BS, mask_BS

    def _tensor(self, values: npt.NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(values).to(self.model.device)


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


def _copied(cache: Any, batch: int) -> Any:
    """Return the prefix's keys and values for a batch; what follows is added to the copy."""
    copied = copy.deepcopy(cache)
    copied.batch_repeat_interleave(batch)
    return copied


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
