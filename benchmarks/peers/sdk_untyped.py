"""The openai SDK's fastest way: `post` with a plain body on aiohttp, its own retries, nothing kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import openai
import orjson
from conversations import Ask, Message, body, run


@asynccontextmanager
async def client(base_url: str, in_flight: int) -> AsyncIterator[Ask]:
    transport = openai.DefaultAioHttpClient()
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", http_client=transport) as sdk:

        async def ask(messages: list[Message]) -> str:
            answer = await sdk.post("/chat/completions", cast_to=httpx2.Response, body=body(messages))
            return orjson.loads(answer.content)["choices"][0]["message"]["content"]

        yield ask


if __name__ == "__main__":
    run(client)
