"""Tells a prompt that a server cannot answer from a server that answers nobody."""

import asyncio

from megatron_in2.errors import InputError
from megatron_in2.synthesis.llm.journal.group_commit import GroupCommit
from megatron_in2.synthesis.llm.journal.journal import Journal, Refusal

MAX_REFUSED_IN_A_ROW = 50
MAX_FAILED_IN_A_ROW = 5  # requests that used up all their attempts
MAX_LIMITED_SECONDS = 900.0  # without an answer, while requests are refused as one too many


class ServerHealth:
    """Gives requests up one by one, and the run where nothing but failures comes in.

    Args:
        journal: keeps what was given up.
        commits: writes to it.
    """

    def __init__(self, journal: Journal, commits: GroupCommit) -> None:
        self._journal = journal
        self._commits = commits
        self._refused: list[bytes] = []  # in a row
        self._failed: list[bytes] = []
        self._limited_since: float | None = None
        self.answers = 0

    def answered(self) -> None:
        """Take note of a success."""
        self.answers += 1
        self._refused.clear()
        self._failed.clear()
        self._limited_since = None

    def limited(self, message: str) -> None:
        """Take note that a request was one too many, which is no failure while others pass.

        Raises:
            InputError: nothing has passed for a long time.
        """
        now = asyncio.get_running_loop().time()
        if self._limited_since is None:
            self._limited_since = now
        elif now - self._limited_since > MAX_LIMITED_SECONDS:
            raise InputError(
                f"the server has refused every request for {MAX_LIMITED_SECONDS / 60:g} minutes "
                f"as one too many, lastly: {message}; answers are kept: run again to go on"
            )

    async def give_up(
        self, key: bytes, refusal: Refusal, refused: bool, answers_before: int = -1
    ) -> None:
        """Write down that a request gets no answer.

        Args:
            key: the request's.
            refusal: why.
            refused: by the server, for good; else it failed each time.
            answers_before: ``answers`` before its first try: where others were answered since,
                the server is not at fault.

        Raises:
            InputError: too many in a row: the server is at fault, and none of them stays given up.
        """
        row = self._refused if refused else self._failed
        if refused or self.answers == answers_before:
            row.append(key)
        most = MAX_REFUSED_IN_A_ROW if refused else MAX_FAILED_IN_A_ROW
        if len(row) < most:
            await self._commits.write(lambda: self._journal.refuse(key, refusal))
            return
        given_up = [*self._refused, *self._failed]
        await self._commits.write(lambda: self._journal.forget_refusals(given_up))
        if refused:
            raise InputError(
                f"the server refused {most} requests in a row, lastly: {refusal.message}; "
                "check the openai section"
            )
        raise InputError(
            f"{most} requests in a row failed each time they were tried, lastly: "
            f"{refusal.message}; answers are kept: run again to go on"
        )
