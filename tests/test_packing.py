import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillroom.errors import InputError
from stillroom.packing import best_fit_decreasing, lower_bound

LENGTHS = st.lists(st.integers(1, 40), max_size=60)


@given(LENGTHS)
def test_no_document_is_lost_or_split_and_rows_hold(lengths):
    rows = best_fit_decreasing(lengths, 40)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in row) <= 40 for row in rows)


def fewest_rows(lengths, capacity):
    """The optimum by trying everything."""
    best = len(lengths)

    def place(left, spaces):
        nonlocal best
        if len(spaces) >= best and left:
            return
        if not left:
            best = min(best, len(spaces))
            return
        for i in range(len(spaces)):
            if spaces[i] >= left[0]:
                place(left[1:], [*spaces[:i], spaces[i] - left[0], *spaces[i + 1 :]])
        place(left[1:], [*spaces, capacity - left[0]])

    place(sorted(lengths, reverse=True), [])
    return best


@given(st.lists(st.integers(1, 12), min_size=1, max_size=7))
@settings(max_examples=60)
def test_the_bound_is_below_the_optimum_and_packing_is_near(lengths):
    optimum = fewest_rows(lengths, 12)
    assert lower_bound(lengths, 12) <= optimum <= len(best_fit_decreasing(lengths, 12))
    assert len(best_fit_decreasing(lengths, 12)) <= 11 / 9 * optimum + 6 / 9


def test_the_bound_sees_documents_over_half_a_row():
    assert lower_bound([7, 7, 7], 12) == 3
    assert lower_bound([7, 7, 6], 12) == 3
    assert lower_bound([], 12) == 0


def test_a_chat_mix_fills_rows_of_32k():
    draw = random.Random(7)
    lengths = [min(32768, max(8, int(draw.lognormvariate(6.8, 1.2)))) for _ in range(100_000)]
    rows = best_fit_decreasing(lengths, 32768)
    assert sum(lengths) / (len(rows) * 32768) >= 0.999
    assert len(rows) <= 1.002 * lower_bound(lengths, 32768)


def test_the_order_is_a_function_of_the_lengths():
    lengths = [3, 5, 5, 2, 8, 1, 4]
    assert best_fit_decreasing(lengths, 9) == best_fit_decreasing(tuple(lengths), 9)


@pytest.mark.parametrize("length", [0, 41])
def test_a_length_outside_the_row_is_refused(length):
    with pytest.raises(InputError, match="does not fit rows of 40"):
        best_fit_decreasing([3, length], 40)
