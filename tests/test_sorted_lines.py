import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.errors import InputError
from stillroom.sorted_lines import SortedLines, sorted_file

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


@given(st.lists(names, unique=True), st.booleans(), st.integers(0, 5), st.booleans())
def test_a_file_holds_its_lines_in_the_order_of_python_s_strings(tmp_path_factory, keys, tidy, turn, read):
    if tidy:  # in order, but for the first few, which come last
        keys = [*sorted(keys)[turn:], *sorted(keys)[:turn]]
    lines = {key: b"%d" % n * 9000 + b"\n" for n, key in enumerate(keys)}
    path = tmp_path_factory.mktemp("files") / "out"
    with sorted_file(path) as file:
        for key in keys:
            file.add(key, lines[key])
        assert not read or list(file.lines()) == [lines[key] for key in sorted(lines)]
    assert path.read_bytes() == b"".join(lines[key] for key in sorted(lines))


@pytest.mark.parametrize("keys", ["abb", "aba", "bab"])
def test_two_lines_of_one_key_leave_no_file(tmp_path, keys):
    def fill():
        with sorted_file(tmp_path / "out") as file:
            for key in keys:
                file.add(key, b"1\n")

    with pytest.raises(InputError, match="two records have the id"):
        fill()
    assert list(tmp_path.iterdir()) == []
