"""The passages that questions are asked about: a folder of documents in chunks, each of them once.

documents ──▶ chunks ──▶ without the short ones, the repeated ones and the near-duplicates ──▶ Passages

Of chunks that are almost the same, the first stays: MinHash proposes, the exact share of common runs of words
decides (`stillroom.cleaning.near_duplicates`). What is compared lies on disk; in memory are the chunks that
stay, and a digest of each.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import orjson

from stillroom.chat_format import load_tokenizer
from stillroom.cleaning.likeness import Likeness
from stillroom.cleaning.near_duplicates import near
from stillroom.cleaning.scratch import Cleaned, scratch
from stillroom.raft.pairs import Chunk
from stillroom.records import Message
from stillroom.sources.chunks import characters, split, tokens
from stillroom.sources.documents import Document
from stillroom.teacher.replies import spaced

NGRAM, PERMUTATIONS = 5, 128
"""words of a run, and length of a signature, by which chunks are compared"""
EXAMPLES = 5
"""near-duplicates that are named"""

Unit = Literal["characters", "tokens"]
Cut = Callable[[str], list[str]]
"""a document's text ──▶ its chunks"""
Check = Callable[[str, str], str | None]
"""(id, text) of a chunk ──▶ what earlier one it is like, and how much"""


@dataclass
class Passages:
    """The chunks that stay, and what became of the others."""

    chunks: list[Chunk] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """documents, chunks, short_chunks, duplicate_chunks, near_duplicate_chunks"""
    alike: list[str] = field(default_factory=list)
    """the first near-duplicates: `b.md#0002 shares 0.95 of the runs of 5 words with a.md#0001`"""


def cutting(size: int, overlap: int, unit: Unit, base: Path) -> Cut:
    """What cuts a text, by characters or by the tokens of the model `base`.

    Raises ModelError where its tokenizer cannot be loaded.
    """
    ruler = tokens(load_tokenizer(base)) if unit == "tokens" else characters
    return lambda text: split(text, size, overlap, ruler)


def gathered(
    documents: Iterable[Document], cut: Cut, *, shortest: int, near_threshold: float | None
) -> Passages:
    """Cut documents, one after the other, into chunks of at least `shortest` characters.

    near_threshold: least Jaccard similarity that makes a chunk a near-duplicate; None compares none.
    """
    found, seen = Passages(), set[bytes]()
    with _checking(near_threshold) as check:
        for document in documents:
            found.counts["documents"] += 1
            for number, text in enumerate(cut(document.text)):
                identifier = f"{document.id}#{number:04}"
                digest = hashlib.blake2b(spaced(text).encode(), digest_size=16).digest()
                if len(text) < shortest:
                    found.counts["short_chunks"] += 1
                elif digest in seen:
                    found.counts["duplicate_chunks"] += 1
                elif detail := check(identifier, text):
                    found.counts["near_duplicate_chunks"] += 1
                    found.alike += [f"{identifier} {detail}"][: EXAMPLES - len(found.alike)]
                else:
                    seen.add(digest)
                    found.chunks.append(Chunk(identifier, document.id, document.title, text, document.source))
    found.counts["chunks"] = len(found.chunks)
    return found


@contextmanager
def _checking(threshold: float | None) -> Iterator[Check]:
    """The check for near-duplicates, with its files on disk while it is used."""
    if threshold is None:
        yield lambda _id, _text: None
        return
    likeness = Likeness(threshold, NGRAM, PERMUTATIONS)
    with tempfile.TemporaryDirectory() as folder, scratch(Path(folder) / "chunks") as files:
        like = near(files, likeness)

        def check(identifier: str, text: str) -> str | None:
            message = Message("user", text)
            line = orjson.dumps({"id": identifier, "messages": [message]})
            chunk = Cleaned(identifier, line, 1, len(text), b"", likeness.bands([message]))
            return like(chunk, files.write(line))

        yield check
