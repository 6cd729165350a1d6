"""What a server turned out not to take, and how requests are put so that it takes them."""

from typing import Any

from megatron_in2.synthesis.llm.envelopes import is_about_form
from megatron_in2.synthesis.llm.failures import FailedCallError
from megatron_in2.synthesis.llm.journal.group_commit import GroupCommit
from megatron_in2.synthesis.llm.journal.journal import Journal

PLAIN_TEXT = "the server takes no JSON schema"  # notes in the journal
COMPLETION_TOKENS = "the server wants max_completion_tokens"


class Dialect:
    """Puts payloads as one server takes them; what it learns is kept in the journal.

    Args:
        journal: keeps it.
        commits: writes to the journal.
        server: names the server's notes where a journal holds those of several.
    """

    def __init__(self, journal: Journal, commits: GroupCommit, server: str = "") -> None:
        self._journal = journal
        self._commits = commits
        self._suffix = f" ({server})" if server else ""
        self._plain = journal.noted(PLAIN_TEXT + self._suffix) is not None
        self._completion = journal.noted(COMPLETION_TOKENS + self._suffix) is not None

    def fit(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Return the payload in the form that the server takes."""
        if not self._plain and not self._completion:
            return payload
        fitted = dict(payload)
        if self._plain:
            fitted.pop("response_format", None)
        if self._completion and "max_tokens" in fitted:
            fitted["max_completion_tokens"] = fitted.pop("max_tokens")
        return fitted

    async def explains(self, failure: FailedCallError, payload: dict[str, Any]) -> bool:
        """Whether a refusal says how the request must be put; it is not about the prompt then."""
        if failure.status is None or not 400 <= failure.status < 500:
            return False
        if "response_format" in payload and is_about_form(failure.message):
            self._plain = await self._note(self._plain, PLAIN_TEXT)
            return True
        if "max_tokens" in payload and "max_completion_tokens" in failure.message:
            self._completion = await self._note(self._completion, COMPLETION_TOKENS)
            return True
        return False

    async def _note(self, known: bool, name: str) -> bool:
        if not known:
            await self._commits.write(lambda: self._journal.note(name + self._suffix, "yes"))
        return True
