"""Questions with their answers, as the teacher gave them: what a person reviews and examples are made of.

Chunk, question, answer ──▶ Pair ──▶ data/interim/raft-pairs.jsonl
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stillroom.artifacts import canonical_json, read_jsonl, sha256
from stillroom.teacher.prompts import ANSWER_TAG
from stillroom.teacher.replies import spaced

Side = Literal["train", "eval"]
PASSAGES = "passages.jsonl"
"""of the benchmark's folder: what a search for its questions looks through"""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of a document; `id` is `document#number`, `source` the document's address or path."""

    id: str
    document: str
    title: str
    text: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """A question about a passage and its answer, with the keys of the requests that gave them."""

    id: str
    side: Side
    """whether its document is held out"""
    chunk: Chunk
    question: str
    cot_answer: str
    question_key: str
    answer_key: str
    repaired: tuple[str, ...] = ()
    """the faults of the teacher's answer that were put right"""

    @property
    def answer(self) -> str:
        """The short answer, after the tag."""
        return self.cot_answer.rpartition(ANSWER_TAG)[2].strip()

    @property
    def identity(self) -> str:
        """The same wherever the same question is asked about the same text: 16 hex digits."""
        return sha256(canonical_json([spaced(self.chunk.text), self.question]))[:16]


def pair_id(chunk: Chunk, question: str) -> str:
    """The id of the example that is made of a question."""
    return f"raft-{sha256(f'{chunk.id} {question}')[:12]}"


def row(pair: Pair) -> dict[str, Any]:
    """A pair's line of raft-pairs.jsonl."""
    return {
        "id": pair.id,
        "pair": pair.identity,
        "side": pair.side,
        "document": pair.chunk.document,
        "title": pair.chunk.title,
        "source": pair.chunk.source,
        "chunk": pair.chunk.id,
        "passage": pair.chunk.text,
        "question": pair.question,
        "cot_answer": pair.cot_answer,
        "question_key": pair.question_key,
        "answer_key": pair.answer_key,
        "repaired": pair.repaired,
    }


def passage_row(chunk: Chunk) -> dict[str, Any]:
    """A passage's line of the benchmark's passages.jsonl."""
    return {
        "id": chunk.id,
        "document": chunk.document,
        "title": chunk.title,
        "source": chunk.source,
        "text": chunk.text,
    }


def read_pairs(path: Path) -> Iterator[Pair]:
    """Stream the pairs of a file, in the order of the documents. Raises InputError where there is none."""
    for _, line in read_jsonl(path):
        chunk = Chunk(line["chunk"], line["document"], line["title"], line["passage"], line["source"])
        keys = (line["question_key"], line["answer_key"])
        said = (line["question"], line["cot_answer"])
        yield Pair(line["id"], line["side"], chunk, *said, *keys, tuple(line["repaired"]))
