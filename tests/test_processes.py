import itertools
import math
from contextlib import closing
from functools import partial

import pytest

from stillroom import processes
from stillroom.processes import in_order

ROOTS = partial(partial, math.sqrt)
"""makes a function that workers can import"""


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_with_their_items_in_order(count):
    items = [float(i * i) for i in range(50)]
    assert list(in_order(ROOTS, items, count)) == [(i, math.sqrt(i)) for i in items]
    assert list(in_order(ROOTS, [], count)) == []


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_is_raised_at_its_items_turn_and_no_more_items_are_read_than_needed(count):
    read = []
    items = (read.append(i) or (-1.0 if i == 5 else i) for i in itertools.count())
    done = []
    with closing(in_order(ROOTS, items, count)) as results, pytest.raises(ValueError, match="math domain"):
        done += (item for item, _ in results)
    assert done == [0, 1, 2, 3, 4]
    assert len(read) <= 6 + processes.AHEAD * count


def test_cores_are_at_most_those_that_snakemake_grants(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert processes.available() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    most = processes.available()
    for value in ("", "0", "x"):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert processes.available() == most >= 1
