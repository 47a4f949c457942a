import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.errors import ParamsError
from stillroom.mixing.weights import of_files, plan, shares


def test_shares_add_up_and_leave_out_what_has_no_weight():
    assert shares({"a": 2, "b": 1, "c": 0, "d": 1}, {}, None) == {"a": 0.5, "b": 0.25, "d": 0.25}


def test_temperature_goes_from_sizes_to_equality():
    sizes = {"a": 900, "b": 100}
    assert shares({"a": 1, "b": 1}, sizes, 1) == pytest.approx({"a": 0.9, "b": 0.1})
    assert shares({"a": 1, "b": 1}, sizes, 2) == pytest.approx({"a": 0.75, "b": 0.25})
    assert shares({"a": 1, "b": 3}, sizes, 2) == pytest.approx({"a": 0.5, "b": 0.5})
    assert shares({"a": 1, "b": 1}, sizes, 1e9) == pytest.approx({"a": 0.5, "b": 0.5})
    assert shares({"a": 1, "b": 1, "c": 1}, sizes, 1)["c"] == 0


WEIGHTS = st.dictionaries(st.sampled_from("abcd"), st.floats(0.01, 100), min_size=1)
SIZES = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 10**9))


@given(WEIGHTS, SIZES, st.floats(1, 10), st.none() | st.integers(1, 10**9))
def test_nothing_gives_more_than_it_has_nor_than_it_should(weights, sizes, epochs, total):
    share = shares(weights, sizes, None)
    found = plan(share, sizes, epochs, total)
    for origin, taken in found.taken.items():
        assert taken <= epochs * sizes.get(origin, 0)
        assert taken == pytest.approx(found.targets[origin]) or found.shortfall(origin) >= 0
    if total is None and sizes.keys() & weights.keys():
        full = [o for o in share if o in sizes and found.taken[o] == pytest.approx(epochs * sizes[o])]
        assert full, "the scarcest source is used up"
        assert all(found.shortfall(o) <= 1 for o in share if o in sizes)


def test_files_divide_the_share_of_the_chat():
    parts = ["chat/oig/unified_ni.jsonl.gz", "chat/oig/unified_nq.jsonl", "chat/other.json", "mqa"]
    files = {"unified_ni.jsonl*": 0.5, "oig/*": 2.5, "*.json": 0}
    assert of_files({"chat": 6, "mqa": 4, "raft": 0}, files, parts) == {
        "chat/oig/unified_ni.jsonl.gz": 1,
        "chat/oig/unified_nq.jsonl": 5,
        "mqa": 4,
        "raft": 0,
    }
    unnamed = of_files({"chat": 6}, {"unified_ni.jsonl.gz": 2}, parts)
    assert unnamed == {
        "chat/oig/unified_ni.jsonl.gz": 3,
        "chat/oig/unified_nq.jsonl": 1.5,
        "chat/other.json": 1.5,
    }


def test_a_file_that_is_not_there_has_no_weight():
    with pytest.raises(ParamsError, match="such a file") as caught:
        of_files({"chat": 1}, {"unified_nj*": 1}, ["chat/unified_ni.jsonl"])
    assert "chat_files: unified_nj*" in str(caught.value)


def test_a_source_that_is_too_small_is_short():
    found = plan({"a": 0.5, "b": 0.5}, {"a": 100, "b": 10}, 2.0, 100)
    assert found.taken == {"a": 50, "b": 20}
    assert (found.shortfall("a"), found.shortfall("b")) == (0, 30)
