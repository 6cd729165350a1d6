"""Takes the middle out of an input that is too long for a model, as LongBench does.

The start and the end of an input hold what the model is asked. A harness that cuts prompts on the
left removes the begin of the template, and with it the marks that make the rest an instruction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from megatron_in2.errors import InputError


@dataclass(frozen=True)
class Window:
    """What prompts must fit in.

    Args:
        tokenizer: of the model, from ``transformers``; it gives the characters of each token.
        ids: what the model receives for a prompt, its begin-of-sequence included.
        tokens: most that a prompt may take.
    """

    tokenizer: Any
    ids: Callable[[str], list[int]]
    tokens: int

    def shortened(self, message: str, write: Callable[[str], str]) -> str:
        """Return a message of which as many tokens are left out as its prompt has too many.

        What is left out is in the middle of the message: what remains of its tokens is half before
        and half behind it. No character of the rest changes.

        Args:
            message: a user's message, before a template is applied.
            write: writes the prompt for it.

        Raises:
            InputError: nothing of the message would remain, or the tokenizer tells no characters.
        """
        left_out = len(self.ids(write(message))) - self.tokens
        if left_out <= 0:
            return message
        spans = self._characters(message)
        while left_out < len(spans):
            before = (len(spans) - left_out + 1) // 2
            behind = before + left_out
            start = spans[before - 1][1]
            end = spans[behind][0] if behind < len(spans) else len(message)
            shorter = message[:start] + message[end:]
            # Two tokens that meet may be cut otherwise than before: the whole is counted.
            excess = len(self.ids(write(shorter))) - self.tokens
            if excess <= 0:
                return shorter
            left_out += excess
        raise InputError(
            f"a window of {self.tokens} tokens for prompts holds nothing but the template: give a "
            "larger --max-length"
        )

    def without_end(self, context: str, write: Callable[[str], str]) -> str:
        """Return a context without as many tokens at its end as its prompt has too many.

        Args:
            context: a text within the prompt.
            write: writes the prompt for it.

        Raises:
            InputError: nothing of the context would remain, or the tokenizer tells no characters.
        """
        excess = len(self.ids(write(context))) - self.tokens
        if excess <= 0:
            return context
        spans = self._characters(context)
        if excess >= len(spans):
            raise InputError(
                f"a window of {self.tokens} tokens for prompts holds nothing of the context: give "
                "a larger --max-length"
            )
        return context[: spans[-excess][0]]

    def _characters(self, text: str) -> list[tuple[int, int]]:
        """Return the [start, end) characters of each token."""
        if not self.tokenizer.is_fast:
            raise InputError(
                "the model's tokenizer does not tell the characters of its tokens, which cutting "
                "inputs in the middle needs: add its tokenizer.json"
            )
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return [(start, end) for start, end in encoded["offset_mapping"]]
