"""The openai SDK as its manual shows it: `create()`, default transport and retries, nothing kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
from conversations import Ask, Message, body, run


@asynccontextmanager
async def client(base_url: str, in_flight: int) -> AsyncIterator[Ask]:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none") as sdk:

        async def ask(messages: list[Message]) -> str:
            answer = await sdk.chat.completions.create(**body(messages))
            return answer.choices[0].message.content

        yield ask


if __name__ == "__main__":
    run(client)
