"""The bare client for ``paid_questions.py``: ``python bare_client.py URL PAYLOADS CONCURRENCY``.

It sends each payload (JSON lines) through ``openai.AsyncOpenAI``, so many at a time, and forgets
the replies: no journal, no budget, no filters, nothing written.
"""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai


async def _work(client: openai.AsyncOpenAI, payloads: Iterator[dict[str, Any]]) -> None:
    for payload in payloads:
        await client.chat.completions.create(**payload)


async def _send_all(url: str, payloads: list[dict[str, Any]], concurrency: int) -> None:
    async with openai.AsyncOpenAI(api_key="any", base_url=url, max_retries=0) as client:
        shared = iter(payloads)
        await asyncio.gather(*(_work(client, shared) for _ in range(concurrency)))


if __name__ == "__main__":
    lines = Path(sys.argv[2]).read_text(encoding="utf-8").splitlines()
    asyncio.run(_send_all(sys.argv[1], [json.loads(line) for line in lines], int(sys.argv[3])))
