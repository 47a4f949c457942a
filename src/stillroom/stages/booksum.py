"""Book chapters and their summaries into summary instructions.

data/raw/chapters ──▶ booksum ──▶ data/interim/booksum.jsonl, data/benchmarks/booksum/eval.jsonl

    stillroom booksum

A chapter and a request, in one of several wordings that the seed draws for each chapter, are the question;
the summary is the answer. A prompt that has a request of its own keeps it. Whole books are held out for the
benchmark, so that no book is on both sides: those that a publication holds out, else a share that the seed
draws. Chapters that do not fit the context are left out and counted, never cut. The texts stand on disk
(`bookshelf`), so memory does not grow with them.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from stillroom import chat_format, summary
from stillroom.artifacts import atomic_directory, sha256, write_json, write_jsonl
from stillroom.bookshelf import Example, Shelf, content, opened
from stillroom.chat_format import ChatFormat, Tokenizer, codec, encode_stream, load_tokenizer
from stillroom.cleaning.scratch import scratch
from stillroom.draws import rng
from stillroom.params import Block
from stillroom.progress import tracked
from stillroom.records import Conversation, Message
from stillroom.sources.adapter import Dropped
from stillroom.sources.chapter import Chapter, Split
from stillroom.sources.chapters import OnMissingText, read_chapters
from stillroom.tokenising import Words

CHAPTER = "{chapter}"
"""where a request has it, the chapter stands; else before the request"""
REQUESTS = [
    "Summarize the chapter above.",
    "Write a summary of this chapter.",
    "What happens in this chapter? Give a summary.",
    "Please give a concise summary of the text above.",
    "Tell me in a few sentences what this chapter is about.",
    "Provide a summary of the preceding chapter.",
]
EVALUATED: dict[str, tuple[Split, ...]] = {
    "test": ("test",),
    "validation": ("validation",),
    "both": ("validation", "test"),
}
"""the splits that are the benchmark, by `published_split`"""
REASONS = (
    *("missing_text", "empty", "duplicate", "other_split", "book_held_out"),
    *("chapter_short", "chapter_long", "summary_short", "summary_long", "too_long"),
)
"""for which a chapter is left out; the first that holds counts"""
NAMED = 10
"""missing texts that are named"""
Range = tuple[int, int | None]


class Params(Block):
    """The `booksum` block of params.yaml."""

    common_keys = ("seed", "chat_format", "context_length")

    seed: int = 42
    """of the held-out books and of the wording of each request"""
    chat_format: str = "inst"
    """the format in which tokens are counted"""
    context_length: int = 32768
    """most tokens of an example"""
    requests: list[str] = Field(default=REQUESTS, min_length=1)
    """what is asked, drawn for each chapter, which stands at {chapter}, else before the request"""
    chapter_tokens: Range = (0, None)
    """fewest and most tokens of a chapter, or of a prompt with its own request; null: no limit"""
    summary_tokens: Range = (0, None)
    """fewest and most tokens of a summary; null: no limit"""
    published_split: Literal["test", "validation", "both", "ignore"] = "test"
    """which held-out files of a publication are the benchmark; ignore: books are drawn instead"""
    eval_share: float = Field(default=0.1, ge=0, lt=1)
    """share of the books without a published split held out; above 0, at least one of two or more"""
    answer_tokens: int = Field(default=512, ge=1)
    """room that an evaluation prompt leaves for the answer: at least evaluate.booksum.max_tokens"""
    on_missing_text: OnMissingText = "stop"
    """where an alignment names a text that is not there: stop, or skip the chapter and count it"""

    @field_validator("requests")
    @classmethod
    def _placed(cls, requests: list[str]) -> list[str]:
        """A request says something, and names the chapter once at most and nothing else."""
        for request in requests:
            names = re.findall(r"\{(\w*)\}", request)
            if unknown := [name for name in names if name != "chapter"]:
                raise ValueError(
                    f"{request!r}: unknown placeholder {{{unknown[0]}}}, there is only {CHAPTER}"
                )
            if len(names) > 1:
                raise ValueError(f"{request!r}: {CHAPTER} stands in it {len(names)} times")
            if not request.replace(CHAPTER, "").strip():
                raise ValueError(f"{request!r} asks nothing")
        return requests

    @field_validator("chapter_tokens", "summary_tokens")
    @classmethod
    def _ascending(cls, value: Range) -> Range:
        least, most = value
        if least < 0 or (most is not None and most < least):
            raise ValueError("[fewest, most] with 0 <= fewest <= most")
        return value


@dataclass(frozen=True)
class Paths:
    """Where dvc.yaml says that things lie."""

    chapters: Path = Path("data/raw/chapters")
    base: Path = Path("models/base")
    train: Path = Path("data/interim/booksum.jsonl")
    benchmark: Path = Path("data/benchmarks/booksum")
    metrics: Path = Path("reports/metrics/booksum.json")


def run(paths: Paths, params: Params) -> None:
    """Write the training conversations, the benchmark and the metrics.

    Raises InputError on a row that is no chapter, and where `on_missing_text` says so on a missing text.
    """
    chat, tokenizer = chat_format.get(params.chat_format), load_tokenizer(paths.base)
    left_out: Counter[str] = Counter()
    with scratch(paths.train.with_name(".booksum.partial")) as space:
        shelf = Shelf(space)
        found = present(read_chapters(paths.chapters, params.on_missing_text), left_out)
        for example in tracked(examples(found, params, chat, tokenizer), "booksum", unit="chapters"):
            shelf.add(example)
        evaluated = EVALUATED.get(params.published_split, ())
        shelf.settle(evaluated, params.eval_share, params.seed, params.context_length, params.answer_tokens)
        write_jsonl(paths.train, shelf.records("train"))
        with atomic_directory(paths.benchmark) as folder:
            write_jsonl(folder / "eval.jsonl", shelf.records("eval"))
        figures = metrics(shelf, left_out)
    write_json(paths.metrics, figures)
    report(figures, params)


def present(found: Iterable[Chapter | Dropped], left_out: Counter[str]) -> Iterator[Chapter]:
    """The chapters that are there; the others are counted, and the first missing texts named."""
    for chapter in found:
        if isinstance(chapter, Chapter):
            yield chapter
            continue
        left_out[chapter.reason] += 1
        if chapter.reason == "missing_text" and left_out[chapter.reason] <= NAMED:
            print(f"booksum: {chapter.id}: {chapter.detail}", file=sys.stderr)


def examples(
    chapters: Iterable[Chapter], params: Params, chat: ChatFormat, tokenizer: Tokenizer
) -> Iterator[Example]:
    """Each chapter as a conversation, with its lengths in tokens; in batches, so that memory is bounded."""
    words = Words(codec(tokenizer))

    def count(text: str) -> int:
        return int(words.ragged([text], ["first"]).lengths[0])

    asked, again = itertools.tee((chapter, instruction(chapter, params)) for chapter in chapters)
    coded = encode_stream(chat, tokenizer, (conversation for _, conversation in asked))
    for (chapter, conversation), (_, encoded) in zip(again, coded, strict=True):
        tokens = len(encoded.ids)
        split = None if params.published_split == "ignore" else chapter.split
        reason = unfit(chapter, params, count)
        yield Example(conversation, chapter, split, tokens - sum(encoded.learn), tokens, reason)


def instruction(chapter: Chapter, params: Params) -> Conversation:
    """The chapter with a request, and the summary as the answer; `meta` says where both are from."""
    id = identifier(chapter)
    index = None if chapter.asked else rng(params.seed, "booksum", id).choice(range(len(params.requests)))
    before, after = placed(params.requests[index]) if index is not None else ("", "")
    question = f"{before}{chapter.text}{after}"
    told = {
        "book": chapter.book,
        "chapter": chapter.section if chapter.number is None else chapter.number,
        "gutenberg": chapter.gutenberg,
        "source": chapter.source,
        "url": chapter.url,
        "split": chapter.split,
        "file": chapter.file,
    }
    meta: dict[str, Any] = {name: value for name, value in told.items() if value not in ("", None)}
    meta |= {"request": index, "chapter_at": [len(before), len(before) + len(chapter.text)]}
    messages = (Message("user", question), Message("assistant", chapter.summary))
    return Conversation(id, "booksum", messages, meta)


def identifier(chapter: Chapter) -> str:
    """Of book, chapter's number where it has one, and content, which tells the chapter's summaries apart."""
    book = sha256(chapter.book)[:8] if chapter.book else opened(chapter.text)[-8:]
    if chapter.number is None:
        return f"booksum-{book}-{content(chapter)[:16]}"
    return f"booksum-{book}-{chapter.number:04}-{content(chapter)[:8]}"


def placed(request: str) -> tuple[str, str]:
    """What stands before the chapter and after it."""
    before, chapter, after = request.partition(CHAPTER)
    return (before, after) if chapter else ("", f"\n\n{request}")


def unfit(chapter: Chapter, params: Params, count: Callable[[str], int]) -> str | None:
    """Which limit of tokens the chapter or the summary breaks; they are only counted where there is one."""
    for name, text, limits in (
        ("chapter", chapter.text, params.chapter_tokens),
        ("summary", chapter.summary, params.summary_tokens),
    ):
        if limits == (0, None):
            continue
        tokens, (least, most) = count(text), limits
        if tokens < least:
            return f"{name}_short"
        if most is not None and tokens > most:
            return f"{name}_long"
    return None


def metrics(shelf: Shelf, left_out: Counter[str]) -> dict[str, Any]:
    """Counts of chapters and books, those left out by reason, and lengths in tokens."""
    fates = Counter(shelf.fates()) + left_out
    return {
        "chapters": fates.total(),
        **shelf.books(),
        "train": fates["train"],
        "eval": fates["eval"],
        "dropped": {reason: fates[reason] for reason in REASONS},
        "tokens": summary.lengths(shelf.tokens()),
    }


def report(figures: dict[str, Any], params: Params) -> None:
    """State on standard error what was left out, and which side is empty."""
    left_out = {reason: count for reason, count in figures["dropped"].items() if count}
    if left_out:
        print(f"booksum: left out {left_out}", file=sys.stderr)
    if both := figures["books_on_both_sides"]:
        print(f"booksum: in published files of both sides, so not trained on: {both} books", file=sys.stderr)
    if figures["chapters"] and not figures["train"] + figures["eval"]:
        print("booksum: no chapter is left", file=sys.stderr)
    elif figures["train"] and not figures["eval"] and params.eval_share:
        held = figures["eval_books"]
        print(f"booksum: the benchmark is empty, of {held} books held out", file=sys.stderr)
