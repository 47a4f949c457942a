"""Documents into rows of a fixed length: global best-fit decreasing.

lengths, capacity ──▶ best_fit_decreasing ──▶ rows of document indices

Longest first, each document goes to the row with the least space that still holds it. Over a whole data set
of chats this fills 99.9 % of all rows and more, without cutting a document.
Sources: Johnson 1974 (bin packing); Ding et al. 2024, arXiv:2404.10830 (packing for training).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

from stillroom.errors import InputError


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of indices into `lengths`, each row's lengths adding up to at most `capacity`.

    Every document is in exactly one row. O(n log n + n · distinct spaces). Raises InputError for a length
    outside 1 … capacity.
    """
    rows: list[list[int]] = []
    spaces: list[int] = []  # the distinct free spaces, ascending
    open_rows: dict[int, list[int]] = {}  # free space -> the rows that have it
    sizes = np.asarray(lengths, dtype=np.int64)
    for length in sizes[(sizes < 1) | (sizes > capacity)][:1]:
        raise InputError(f"a document of {length:,} tokens does not fit rows of {capacity:,}")
    order = np.argsort(-sizes, kind="stable")
    for index, length in zip(order.tolist(), sizes[order].tolist(), strict=True):
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
    ordered = np.sort(np.asarray(lengths, dtype=np.int64))
    count, before = len(ordered), np.concatenate([[0], np.cumsum(ordered)])
    thresholds = np.unique(ordered[2 * ordered <= capacity])
    middle = np.searchsorted(ordered, capacity // 2, "right")
    large = np.searchsorted(ordered, capacity - thresholds, "right")
    small = before[middle] - before[np.searchsorted(ordered, thresholds, "left")]
    room = (large - middle) * capacity - (before[large] - before[middle])
    more = np.maximum(0, -(-(small - room) // capacity)).max(initial=0)
    return max(-(-int(before[-1]) // capacity), int(count - middle + more))
