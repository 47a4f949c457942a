"""Which passages are about a query: BM25 over texts on disk.

texts ──▶ Index ──▶ hits(query, k) ──▶ the k best places with their scores

Tantivy's index names candidates, and they are scored here from their texts, in double precision: the same
texts have the same ranking on every machine. Tantivy's own scores are sums of single precision, in an order
that depends on how the index was cut. It rounds lengths down, so they are never below the true ones: once a
candidate's is below the k-th best true one, no text that matters is to come.

BM25 as Lucene defines it, with exact lengths (Kamphuis et al. 2020, doi:10.1007/978-3-030-45442-5_4).
"""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from stillroom.cleaning.likeness import UNSPACED
from stillroom.errors import StillroomError
from stillroom.progress import tracked

WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]{{2,64}}")
"""two letters or digits and more; of scripts without spaces each character"""
K1, B = 1.2, 0.75
"""Tantivy's constants, so that its scores can be held against the true ones"""
HEAP = 256 << 20
"""bytes that are indexed before they are written"""
SLACK = 1e-5
"""relative error of Tantivy's single precision, and more"""
WORDS, PLACE, TOKENIZER = "words", "place", "spaced"
"""of the index: its fields, and what cuts the words apart again"""
DIGITS = 6
"""of a score, which makes those equal that differ by the machine's logarithm"""


class Hit(NamedTuple):
    """A text that shares a word with the query."""

    place: int
    score: float


class Texts(Protocol):
    """Texts by place, from 0."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> str: ...


def words(text: str) -> list[str]:
    """The words of a text, in lower case.

    >>> words("Who won the 1st X-ray prize?")
    ['who', 'won', 'the', '1st', 'ray', 'prize']
    """
    return WORD.findall(text.lower())


class Index:
    """Texts that can be asked. The index stands in a new `folder`, or in memory where that is None."""

    def __init__(self, texts: Texts, folder: Path | None = None) -> None:
        import tantivy

        self._texts = texts
        self._schema = _schema()
        if folder:
            folder.mkdir()
        self._index = tantivy.Index(self._schema, path=str(folder) if folder else None)
        spaced = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build()
        self._index.register_tokenizer(TOKENIZER, spaced)
        with _full_disk(folder):
            self._mean = self._fill() / max(len(texts), 1)
        self._searcher = self._index.searcher()

    def ranked(self, query: str, k: int) -> list[int]:
        """Places of at most k texts, the best first; those that share no word with the query come last."""
        found = dict.fromkeys(hit.place for hit in self.hits(query, k))
        others = (place for place in range(len(self._texts)) if place not in found)
        return [*found, *islice(others, k - len(found))]

    def hits(self, query: str, k: int) -> list[Hit]:
        """At most k texts that share a word with the query, the best first; of equal ones the lower place."""
        weights = {word: self._weight(word) for word in dict.fromkeys(words(query))}
        best: list[tuple[float, int]] = []  # a heap: the least of the k best comes first
        scored: set[int] = set()
        for bound, place in self._candidates(list(weights), min(k, len(self._texts))):
            if len(best) == k and bound < best[0][0]:
                break
            if place not in scored:
                scored.add(place)
                keep = heapq.heappush if len(best) < k else heapq.heappushpop
                keep(best, (self._score(place, weights), -place))
        return [Hit(-place, score) for score, place in sorted(best, reverse=True)]

    def _candidates(self, wanted: list[str], k: int) -> Iterator[tuple[float, int]]:
        """Texts with a word of those that are wanted, each with a bound of its score; the bounds fall.

        More than k are searched for only where the first do not do; then those come again.
        """
        limit = 2 * k
        while limit:
            hits = self._searcher.search(_any_of(self._schema, wanted), limit, count=False).hits
            found = self._searcher.fast_field_values(PLACE, [address for _, address in hits])
            for (score, _), place in zip(hits, cast(list[int], found), strict=True):
                yield score * (1 + SLACK) + 10**-DIGITS, place
            limit = 2 * limit if len(hits) == limit else 0

    def _fill(self) -> int:
        """Index every text, and return the number of their words."""
        import tantivy

        total = 0
        writer = self._index.writer(heap_size=HEAP, num_threads=1)
        for place in tracked(range(len(self._texts)), "index", len(self._texts), "passages"):
            found = words(self._texts[place])
            total += len(found)
            writer.add_document(tantivy.Document(**{WORDS: " ".join(found), PLACE: place}))
        writer.commit()
        writer.wait_merging_threads()
        self._index.reload()
        return total

    def _weight(self, word: str) -> float:
        """What a word counts: the fewer texts have it, the more."""
        having = self._searcher.doc_freq(WORDS, word)
        return (1 + K1) * math.log1p((len(self._texts) - having + 0.5) / (having + 0.5))

    def _score(self, place: int, weights: dict[str, float]) -> float:
        """BM25 of one text."""
        found = words(self._texts[place])
        counts = Counter(found)
        least = K1 * (1 - B + B * len(found) / self._mean)
        parts = (weight * counts[word] / (counts[word] + least) for word, weight in weights.items())
        return round(sum(parts), DIGITS)


def _schema() -> Any:
    """A text's words, and its place."""
    import tantivy

    builder = tantivy.SchemaBuilder()
    builder.add_text_field(WORDS, tokenizer_name=TOKENIZER, index_option="freq")
    builder.add_integer_field(PLACE, fast=True)
    return builder.build()


def _any_of(schema: Any, wanted: Iterable[str]) -> Any:
    """A query for texts that have one of the words."""
    from tantivy import Occur, Query

    return Query.boolean_query(
        [(Occur.Should, Query.term_query(schema, WORDS, word, "freq")) for word in wanted]
    )


@contextmanager
def _full_disk(folder: Path | None) -> Iterator[None]:
    try:
        yield
    except ValueError as error:  # all that Tantivy raises
        where = str(folder) if folder else None
        raise StillroomError(str(error), where=where, hint="Free some space and run again.") from None
