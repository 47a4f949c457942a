"""Book chapters and their summaries into summary instructions.

data/raw/chapters ──▶ booksum ──▶ data/interim/booksum.jsonl, data/benchmarks/booksum/eval.jsonl

    stillroom booksum

A chapter stands first, the request after it, in one of several wordings that the seed draws for each chapter.
Whole books are held out for the benchmark, so that no book is on both sides. Chapters that do not fit the
context are dropped and counted, never cut.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from stillroom import chat_format, summary
from stillroom.artifacts import atomic_directory, sha256, write_json
from stillroom.chat_format import ChatFormat, Tokenizer, encode_stream, load_tokenizer
from stillroom.draws import held_out, rng
from stillroom.params import Block
from stillroom.progress import tracked
from stillroom.records import Conversation, Message, write_conversations
from stillroom.sources.chapters import Chapter, read_chapters

REQUESTS = (
    "Summarize the chapter above.",
    "Write a summary of this chapter.",
    "What happens in this chapter? Give a summary.",
    "Please give a concise summary of the text above.",
    "Tell me in a few sentences what this chapter is about.",
    "Provide a summary of the preceding chapter.",
)
"""what is asked about a chapter; published templates are not known, so these are the project's own"""


class Params(Block):
    """The `booksum` block of params.yaml."""

    common_keys = ("seed", "chat_format", "context_length")

    seed: int = 42
    """of the held-out books and of the wording of each request"""
    chat_format: str = "inst"
    """the format in which tokens are counted"""
    context_length: int = 32768
    """most tokens of an example"""
    eval_share: float = Field(default=0.1, ge=0, lt=1)
    """share of the books held out for the benchmark; above 0, at least one of two or more"""
    answer_tokens: int = Field(default=512, ge=1)
    """room that an evaluation prompt leaves for the answer: at least evaluate.booksum.max_tokens"""


@dataclass(frozen=True)
class Paths:
    """Where dvc.yaml says that things lie."""

    chapters: Path = Path("data/raw/chapters")
    base: Path = Path("models/base")
    train: Path = Path("data/interim/booksum.jsonl")
    benchmark: Path = Path("data/benchmarks/booksum")
    metrics: Path = Path("reports/metrics/booksum.json")


@dataclass(frozen=True)
class Split:
    """Summary instructions for training and evaluation, with what became of the rest."""

    train: list[Conversation]
    evaluation: list[Conversation]
    books: frozenset[str]
    """those held out"""
    dropped: Counter[str]
    tokens: list[int]
    """lengths of the training examples"""


def run(paths: Paths, params: Params) -> None:
    """Write the training conversations, the benchmark and the metrics. Raises InputError on a bad chapter."""
    chat = chat_format.get(params.chat_format)
    chapters = list(read_chapters(paths.chapters))
    split = made(chapters, params, chat, load_tokenizer(paths.base))
    if chapters and not (split.train or split.evaluation):
        print(f"booksum: no chapter fits {params.context_length:,} tokens", file=sys.stderr)
    write_conversations(paths.train, split.train)
    with atomic_directory(paths.benchmark) as folder:
        write_conversations(folder / "eval.jsonl", split.evaluation)
    write_json(paths.metrics, metrics(chapters, split))


def made(chapters: Iterable[Chapter], params: Params, chat: ChatFormat, tokenizer: Tokenizer) -> Split:
    """Turn chapters into instructions and hold whole books out."""
    dropped: Counter[str] = Counter()
    records = instructions(chapters, params.seed, dropped)
    books = held_out((record.meta["book"] for record in records), params.eval_share, params.seed)
    split = Split([], [], books, dropped, [])
    coded = encode_stream(chat, tokenizer, records)
    for record, encoded in tracked(coded, "booksum", len(records), "chapters"):
        tokens = len(encoded.ids)
        prompt = tokens - sum(encoded.learn)
        if record.meta["book"] in books:
            fits = prompt + params.answer_tokens <= params.context_length
            kept = split.evaluation
        else:
            fits = tokens <= params.context_length
            kept = split.train
        if not fits:
            dropped["too_long"] += 1
            continue
        kept.append(record)
        if kept is split.train:
            split.tokens.append(tokens)
    return split


def instructions(chapters: Iterable[Chapter], seed: int, dropped: Counter[str]) -> list[Conversation]:
    """One conversation per chapter and summary, sorted by id; repeated ones are counted as `duplicate`."""
    found: dict[str, Conversation] = {}
    for chapter in chapters:
        record = instruction(chapter, seed)
        if record.id in found:
            dropped["duplicate"] += 1
        found.setdefault(record.id, record)
    return [found[id] for id in sorted(found)]


def instruction(chapter: Chapter, seed: int) -> Conversation:
    """The chapter, a request, and the summary as the answer. The id tells summaries of one chapter apart."""
    content = sha256(f"{chapter.text}\n{chapter.summary}")[:8]
    id = f"booksum-{sha256(chapter.book)[:8]}-{chapter.number:04}-{content}"
    request = rng(seed, "booksum", id).choice(REQUESTS)
    messages = (Message("user", f"{chapter.text}\n\n{request}"), Message("assistant", chapter.summary))
    meta = {"book": chapter.book, "chapter": chapter.number, "group": chapter.book}
    return Conversation(id, "booksum", messages, meta)


def metrics(chapters: list[Chapter], split: Split) -> dict[str, Any]:
    """Counts of chapters and books, dropped ones by reason, and lengths in tokens."""
    return {
        "chapters": len(chapters),
        "books": len({chapter.book for chapter in chapters}),
        "eval_books": len(split.books),
        "train": len(split.train),
        "eval": len(split.evaluation),
        "dropped": {reason: split.dropped[reason] for reason in ("duplicate", "too_long")},
        "tokens": summary.lengths(split.tokens),
    }
