"""Long-Data-Collections: a prompt, which is a chapter with a request, and the summary that completes it.

    {"text": "Mr. Woodhouse was fond of society …\\n\\nSummarise the text above.\\n\\nEmma meets …",
     "prompt": "Mr. Woodhouse was fond of society …\\n\\nSummarise the text above.\\n\\n",
     "completion": "Emma meets …"}

The prompt is taken whole: its own request is kept, where it stands. Without `prompt`, it is what `text` says
before the completion. Nothing tells the book, unless a `book` or `title` is given, and `split` the side.

Source: huggingface.co/datasets/togethercomputer/Long-Data-Collections, fine-tune/booksum.jsonl.zst; licence:
see its card.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stillroom.sources.chapter import Chapter, ChapterAdapter, Row, split_in_row

QUESTIONS = "Document [1](Title:"
"""stands in the prompts of the collection's other file, which is about questions"""


def fits(record: dict[str, Any]) -> bool:
    """An object with a completion, and what it completes."""
    prompt = record.get("prompt") or record.get("text")
    return "completion" in record and isinstance(prompt, str) and QUESTIONS not in prompt


def read(row: Row) -> Iterator[Chapter]:
    """The prompt with its completion."""
    summary = row.text("completion")
    prompt = row.text("prompt") or row.text("text").removesuffix(summary).strip()
    book, split = row.text("book", "title"), split_in_row(row)
    yield Chapter(prompt, summary, book, asked=True, split=split, source=row.text("source"))


ADAPTER = ChapterAdapter("prompt, completion", fits, read)
