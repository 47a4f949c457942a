"""Passages: each once, also where two are almost the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.raft.passages import EXAMPLES, gathered
from stillroom.sources.documents import Document

WORDS = [f"w{n}" for n in range(60)]


def documents(*texts):
    return [Document(f"d{n}", f"T{n}", text, f"https://x/{n}") for n, text in enumerate(texts)]


def lines(text):
    return text.split("\n")


def similarity(first, second):
    runs = [
        {tuple(text.split()[n : n + 5]) for n in range(len(text.split()) - 4)} for text in (first, second)
    ]
    return len(runs[0] & runs[1]) / len(runs[0] | runs[1])


@given(st.lists(st.lists(st.sampled_from(WORDS[:3]), min_size=6, max_size=9).map(" ".join), max_size=8))
def test_what_stays_is_unlike_and_what_goes_is_like_something_that_stays(texts):
    found = gathered(documents(*texts), lines, shortest=1, near_threshold=0.5)
    kept = [chunk.text for chunk in found.chunks]
    assert all(similarity(a, b) < 0.5 for n, a in enumerate(kept) for b in kept[:n])
    assert all(text in kept or max(similarity(text, other) for other in kept) >= 0.5 for text in texts)
    counts = found.counts
    assert counts["chunks"] + counts["duplicate_chunks"] + counts["near_duplicate_chunks"] == len(texts)


def test_near_duplicates_are_counted_and_named():
    text = " ".join(WORDS)
    texts = [text, *(text.replace(f"w{n} ", f"x{n} ") for n in range(20, 20 + EXAMPLES + 2)), "other " * 9]
    found = gathered(documents(*texts), lines, shortest=1, near_threshold=0.8)
    assert [chunk.id for chunk in found.chunks] == ["d0#0000", f"d{EXAMPLES + 3}#0000"]
    assert found.counts["near_duplicate_chunks"] == EXAMPLES + 2
    assert found.alike[0] == "d1#0000 shares 0.84 of the runs of 5 words with d0#0000"
    assert len(found.alike) == EXAMPLES


@pytest.mark.parametrize("threshold", [None, 0.9])
def test_short_and_repeated_ones_go_first_and_the_rest_keep_title_and_source(threshold):
    texts = ["one two three\nfour\none  two three", "one two\tthree\nfive six seven"]
    found = gathered(documents(*texts), lines, shortest=5, near_threshold=threshold)
    rows = [(chunk.id, chunk.document, chunk.title, chunk.text, chunk.source) for chunk in found.chunks]
    assert rows[0] == ("d0#0000", "d0", "T0", "one two three", "https://x/0")
    assert [row[0] for row in rows] == ["d0#0000", "d1#0001"]
    assert found.counts["documents"] == 2
    assert found.counts["short_chunks"] == 1
    assert found.counts["duplicate_chunks"] == 2
