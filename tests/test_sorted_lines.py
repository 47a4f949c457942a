import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.errors import InputError
from stillroom.sorted_lines import SortedLines

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@given(st.dictionaries(names, st.binary(max_size=9)))
def test_lines_come_back_in_the_order_of_python_s_strings(lines):
    with SortedLines() as kept:
        for key, line in lines.items():
            kept.add(key, line)
        assert list(kept) == [lines[key] for key in sorted(lines)]
        assert list(kept) == [lines[key] for key in sorted(lines)]


def test_a_key_has_one_line():
    with SortedLines() as kept:
        kept.add("a", b"1")
        with pytest.raises(InputError, match="two records have the id 'a'"):
            kept.add("a", b"2")
        kept.add("b", b"3")
        assert list(kept) == [b"1", b"3"]
