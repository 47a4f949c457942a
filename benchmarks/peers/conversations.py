"""What the small drivers of this folder share: their arguments, and a bare loop over conversations.

    python benchmarks/peers/DRIVER.py BASE_URL FILE IN_FLIGHT      (run by benchmarks/teacher.py)

FILE holds a JSON list of user turns a line. A driver prints how many answers it got.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

MODEL = "mock-teacher"
SAMPLING = {"max_tokens": 1024, "temperature": 0.7, "top_p": 1.0}

Message = dict[str, Any]
Ask = Callable[[list[Message]], Awaitable[str]]


def arguments() -> tuple[str, list[list[str]], int]:
    """Base URL, the conversations' user turns, and how many to keep in flight."""
    base_url, path, in_flight = sys.argv[1:4]
    with Path(path).open(encoding="utf-8") as lines:
        return base_url, [json.loads(line) for line in lines], int(in_flight)


def body(messages: list[Message]) -> dict[str, Any]:
    """What is sent."""
    return {"model": MODEL, **SAMPLING, "seed": 42, "messages": messages}


def single(conversations: list[list[str]]) -> list[str]:
    """The prompts of a library that asks one question at a time."""
    if any(len(turns) > 1 for turns in conversations):
        sys.exit("single-turn conversations only")
    return [turns[0] for turns in conversations]


def run(client: Callable[[str, int], AbstractAsyncContextManager[Ask]]) -> None:
    """Ask turn by turn, IN_FLIGHT conversations at a time."""
    base_url, conversations, in_flight = arguments()
    answers = 0
    waiting = iter(conversations)

    async def worker(ask: Ask) -> None:
        nonlocal answers
        for turns in waiting:
            messages: list[Message] = []
            for turn in turns:
                messages.append({"role": "user", "content": turn})
                messages.append({"role": "assistant", "content": await ask(messages)})
                answers += 1

    async def main() -> None:
        async with client(base_url, in_flight) as ask:
            await asyncio.gather(*(worker(ask) for _ in range(in_flight)))

    asyncio.run(main())
    print(answers)
