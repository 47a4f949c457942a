"""The floor: aiohttp and nothing else. No retries, no limits, nothing kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import orjson
from conversations import Ask, Message, body, run


@asynccontextmanager
async def client(base_url: str, in_flight: int) -> AsyncIterator[Ask]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=in_flight)) as session:

        async def ask(messages: list[Message]) -> str:
            data = orjson.dumps(body(messages))
            headers = {"content-type": "application/json"}
            async with session.post(f"{base_url}/chat/completions", data=data, headers=headers) as response:
                return orjson.loads(await response.read())["choices"][0]["message"]["content"]

        yield ask


if __name__ == "__main__":
    run(client)
