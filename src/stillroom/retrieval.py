"""Which passages are about a query: BM25 over a corpus in memory.

texts ──▶ Index ──▶ ranked(query, k) ──▶ places of the k best texts

Scores are bm25s's (Lù 2024, arXiv:2407.03618), sparse and precomputed. Ties are broken by place, so that the
ranking is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Index:
    """A corpus that can be asked."""

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s

        self._size = len(texts)
        self._bm25 = bm25s.BM25()
        if texts:
            self._bm25.index(bm25s.tokenize(list(texts), show_progress=False), show_progress=False)

    def ranked(self, query: str, k: int) -> list[int]:
        """Places of at most k texts, best first; those that share no word with the query come last."""
        k = min(k, self._size)
        if k == 0:
            return []
        import bm25s

        words = bm25s.tokenize(query, show_progress=False, return_ids=False)[0]
        known = [word for word in words if word in self._bm25.vocab_dict]
        scores = self._bm25.get_scores(known) if known else np.zeros(self._size, dtype=np.float32)
        least = np.partition(scores, self._size - k)[self._size - k]
        places = np.flatnonzero(scores >= least)
        order = np.lexsort((places, -scores[places]))
        return [int(place) for place in places[order][:k]]
