"""Notices when nearly all replies are dropped: then the prompt is wrong, and money is lost."""

from collections import Counter, deque

from megatron_in2.errors import InputError

WINDOW = 200  # replies looked at


class RejectWatch:
    """Looks at the last replies of a paid writer.

    Args:
        most: the share of them that may be dropped; 1 lets all be.
    """

    def __init__(self, most: float) -> None:
        self._most = most
        self._latest: deque[str | None] = deque(maxlen=WINDOW)
        self._dropped = 0  # of the latest

    def note(self, reason: str | None) -> None:
        """Take note of a reply: why it is dropped, or None.

        Raises:
            InputError: too many of the last replies are.
        """
        if len(self._latest) == WINDOW:
            self._dropped -= self._latest[0] is not None
        self._latest.append(reason)
        self._dropped += reason is not None
        if len(self._latest) == WINDOW and self._dropped > self._most * WINDOW:
            reasons = Counter(reason for reason in self._latest if reason is not None)
            shares = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(4))
            raise InputError(
                f"{self._dropped} of the last {WINDOW} replies were dropped ({shares}): the "
                "likely cause is the prompt (openai.prompts) or the model, not the corpus; answers "
                "are kept; change the prompt, or raise filters.stop_share, and run again"
            )
