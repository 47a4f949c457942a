"""What a question of RAFT's benchmark is asked with: its own documents, none, or those that a search finds.

eval.jsonl, passages.jsonl ──▶ accompanied ──▶ a record of every question in every context
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

from stillroom.artifacts import read_jsonl
from stillroom.benchmarks.base import meta
from stillroom.errors import InputError
from stillroom.raft.formats import instruction
from stillroom.raft.pairs import PASSAGES
from stillroom.records import Conversation, Message
from stillroom.retrieval import Index

Context = Literal["given", "plain", "retrieved"]
"""the oracle among distractors, as in training; the question alone; the passages that are most like it"""


class Search:
    """The passages of a benchmark, to be asked by BM25; in memory are their texts.

    Raises InputError where there are none.
    """

    def __init__(self, data: Path, k: int) -> None:
        path = data / PASSAGES
        if not path.exists():
            hint = "run: stillroom raft; or leave `retrieved` out of evaluate.raft.contexts"
            raise InputError("no passages to search", where=str(path), hint=hint)
        rows = [row for _, row in read_jsonl(path)]
        self._ids, self._texts = [row["id"] for row in rows], [row["text"] for row in rows]
        self._index, self._k = Index(self._texts), k

    def record(self, record: Conversation) -> Conversation:
        """The question behind the k best passages, the best first; `meta.found`: whether its own is there."""
        question = meta(record, "question", str)
        places = self._index.ranked(question, self._k)
        asked = instruction((self._texts[place] for place in places), question)
        found = [self._ids[place] for place in places]
        known = {"passages": found, "found": meta(record, "chunk", str) in found}
        return _in_context(record, "retrieved", asked, known)


def accompanied(
    records: Sequence[Conversation], data: Path, contexts: Collection[Context], k: int
) -> Iterator[Conversation]:
    """Every question in each of the contexts; one whose document was taken away in the given one only."""
    search = Search(data, k) if "retrieved" in contexts and records else None
    for record in records:
        if "given" in contexts:
            yield record
        if record.meta.get("refusal"):
            continue
        if "plain" in contexts:
            yield _in_context(record, "plain", meta(record, "question", str), {})
        if search:
            yield search.record(record)


def context_of(id: str) -> tuple[str, Context]:
    """The question's id and the context, from a record's.

    >>> context_of("raft-0a/plain"), context_of("raft-0a")
    (('raft-0a', 'plain'), ('raft-0a', 'given'))
    """
    question, _, last = id.rpartition("/")
    return (question, cast(Context, last)) if last in ("plain", "retrieved") else (id, "given")


def _in_context(record: Conversation, context: Context, asked: str, known: dict[str, Any]) -> Conversation:
    messages = (Message("user", asked), *record.messages[1:])
    return replace(record, id=f"{record.id}/{context}", messages=messages, meta=record.meta | known)
