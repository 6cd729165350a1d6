"""The harness' model, which keeps both ends of a prompt that is too long."""

from typing import Any

import torch
from lm_eval.models.huggingface import HFLM  # type: ignore[import-untyped]


class BothEndsLM(HFLM):  # type: ignore[misc]
    """``HFLM`` that takes ids out of the middle of a prompt where it would cut on the left.

    On the left is the template's begin. Our own tasks shorten their inputs before the template is
    applied; this is for the prompts of the harness' tasks.
    """

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and attention mask, [prompts, longest]."""
        rows = [_both_ends(self.tok_encode(text), left_truncate_len) for text in strings]
        padded = self.tokenizer.pad(
            {"input_ids": rows}, padding_side=padding_side, return_tensors="pt"
        )
        return padded["input_ids"], padded["attention_mask"]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return the ids of a context and of what is scored behind it."""
        before, behind = super()._encode_pair(context, continuation)
        return _both_ends(before, self.max_length - len(behind)), behind


def _both_ends(ids: list[Any], most: int | None) -> list[Any]:
    """Return at most so many ids, half of them from either end."""
    if most is None or len(ids) <= most:
        return ids
    tail = most // 2
    return [*ids[: most - tail], *ids[len(ids) - tail :]]
