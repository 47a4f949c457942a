"""The floor of a rerun whose answers are all kept: each of its steps once, all in memory, nothing checked.

The conversations are parsed, the answers read in one scan, each request is serialised and hashed, records and
texts are written in the order of the input, and DuckDB copies the answers to Parquet.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import duckdb
import orjson
from conversations import Message, arguments, body

ANSWERS = "SELECT key, text, finish_reason, prompt_tokens, completion_tokens FROM responses"


def main() -> None:
    _, conversations, _ = arguments()
    file = Path(os.environ["STILLROOM_CACHE"], "responses.duckdb")
    with duckdb.connect(str(file), read_only=True) as cache:
        kept = {key: rest for key, *rest in cache.execute(ANSWERS).fetchall()}
        cache.execute("COPY responses TO 'floor.parquet' (COMPRESSION zstd)")
    with Path("floor.jsonl").open("wb") as records, Path("floor-texts.jsonl").open("wb") as texts:
        for number, questions in enumerate(conversations):
            messages, turns = replayed(questions, kept)
            record = {"id": f"c-{number:06}", "messages": messages, "meta": {"turns": turns}}
            records.write(orjson.dumps(record) + b"\n")
            contents = (message["content"] for message in messages)
            texts.write(orjson.dumps({"text": "\n\n".join(contents)}) + b"\n")
    print(sum(map(len, conversations)))


def replayed(questions: list[str], kept: dict[str, list[Any]]) -> tuple[list[Message], list[list[Any]]]:
    """A conversation with its answers. Raises KeyError where one is not kept."""
    messages: list[Message] = []
    turns = []
    for question in questions:
        messages.append({"role": "user", "content": question})
        request = {"version": 1, "teacher": "mock-teacher", "sample": 0, "body": body(messages)}
        key = hashlib.sha256(orjson.dumps(request, option=orjson.OPT_SORT_KEYS)).hexdigest()
        text, *rest = kept[key]
        messages.append({"role": "assistant", "content": text.strip()})
        turns.append([key, *rest])
    return messages, turns


if __name__ == "__main__":
    main()
