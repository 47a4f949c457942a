"""Documents into rows of a fixed length: global best-fit decreasing.

lengths, capacity ──▶ best_fit_decreasing ──▶ rows of document indices

Longest first, each document goes to the row with the least space that still holds it. Over a whole data set
of chats this fills 99.9 % of all rows and more, without cutting a document.
Sources: Johnson 1974 (bin packing); Ding et al. 2024, arXiv:2404.10830 (packing for training).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from stillroom.errors import InputError


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of indices into `lengths`, each row's lengths adding up to at most `capacity`.

    Every document is in exactly one row. O(n log n + n · distinct spaces). Raises InputError for a length
    outside 1 … capacity.
    """
    rows: list[list[int]] = []
    spaces: list[int] = []  # the distinct free spaces, ascending
    open_rows: dict[int, list[int]] = {}  # free space -> the rows that have it
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        length = lengths[index]
        if not 0 < length <= capacity:
            raise InputError(f"a document of {length:,} tokens does not fit rows of {capacity:,}")
        at = bisect_left(spaces, length)
        if at == len(spaces):
            row, space = len(rows), capacity
            rows.append([])
        else:
            space = spaces[at]
            row = open_rows[space].pop()
            if not open_rows[space]:
                del open_rows[space], spaces[at]
        rows[row].append(index)
        if left := space - length:
            if left not in open_rows:
                open_rows[left] = []
                insort(spaces, left)
            open_rows[left].append(row)
    return rows


def lower_bound(lengths: Sequence[int], capacity: int) -> int:
    """The fewest rows that any packing needs: Martello and Toth's L2 over every threshold.

    For a threshold k, documents over capacity - k share a row with nothing of k or more, and documents over
    half a row share with none of their kind (Martello & Toth 1990, section 8.3).
    """
    ordered = sorted(lengths, reverse=True)
    total = sum(ordered)
    best = -(-total // capacity)
    prefix = [0]
    for length in ordered:
        prefix.append(prefix[-1] + length)
    ascending = ordered[::-1]

    def above(limit: int) -> int:
        """How many are longer than `limit`."""
        return len(ascending) - bisect_left(ascending, limit + 1)

    half = above(capacity // 2)
    for k in sorted({length for length in ordered if 2 * length <= capacity}):
        alone = above(capacity - k)
        middle = prefix[half] - prefix[alone]
        small = prefix[len(ordered) - bisect_left(ascending, k)] - prefix[half]
        room = (half - alone) * capacity - middle
        best = max(best, half + max(0, -(-(small - room) // capacity)))
    return max(best, half)
