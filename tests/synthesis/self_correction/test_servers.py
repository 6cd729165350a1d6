"""The servers of one run: how they end."""

import asyncio
from pathlib import Path
from typing import cast

from megatron_in2.synthesis.llm.calls import JournalledCalls
from megatron_in2.synthesis.llm.config import OpenAIConfig
from megatron_in2.synthesis.self_correction.servers import ModelServer, ModelServers
from megatron_in2.tokenizers.base import Tokenizer


class _Calls:
    """Notes what becomes of one model's calls."""

    def __init__(self, name: str, noted: list[str]) -> None:
        self._name, self._noted = name, noted

    def stop(self) -> None:
        self._noted.append(f"stop {self._name}")

    async def close(self) -> None:
        await asyncio.sleep(0)
        self._noted.append(f"close {self._name}")


def test_no_server_sends_anything_while_another_ends(tmp_path: Path, tokenizer: Tokenizer) -> None:
    noted: list[str] = []
    with ModelServers(tmp_path / "journal.sqlite", None, "") as servers:
        for name in ("teacher", "judge"):
            calls = cast(JournalledCalls, _Calls(name, noted))
            servers._servers.append(ModelServer(OpenAIConfig(), calls, tokenizer, servers._loop))
    assert noted == ["stop teacher", "stop judge", "close teacher", "close judge"]
