"""Chunks: properties that hold for any text, on texts made of Markdown's marks and of whole blocks."""

import re

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from stillroom.sources.chunks import characters, spans, split, tokens

MARKS = (
    *(
        "a",
        "word ",
        "Sentence one. ",
        "。",
        "e\u0301",
        "👩‍👩‍👧",
        "\n",
        "\r\n",
        "\n\n",
        " ",
        "\t",
        "\xa0",
        "\x0b",
        "\u2028",
    ),
    *("# ", "## ", "- ", "1. ", "> ", "    ", "```\n", "====\n", "----------\n", "<div>\n", "[a]: b\n"),
    *("| a | b |\n", "| --- | --- |\n"),
)
TEXT = st.lists(st.tuples(st.sampled_from(MARKS), st.integers(1, 4)), max_size=60).map(
    lambda parts: "".join(mark * times for mark, times in parts)
)
SIZES = st.integers(10, 80).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1)))

WORDS = st.lists(
    st.sampled_from(["lamp", "oil", "bell", "rope", "salt", "fog", "tide", "mill"]), min_size=1, max_size=9
)
LINES = st.lists(WORDS.map(" ".join), min_size=1, max_size=4)
BLOCKS = st.one_of(
    st.tuples(st.just("heading"), WORDS.map(lambda words: "## " + " ".join(words[:3]))),
    st.tuples(st.just("text"), LINES.map(lambda lines: " ".join(f"The {line}." for line in lines))),
    st.tuples(st.just("list"), LINES.map(lambda lines: "\n".join(f"- {line}" for line in lines))),
    st.tuples(st.just("code"), LINES.map(lambda lines: "```\n" + "\n\n".join(lines) + "\n```")),
    st.tuples(
        st.just("table"),
        LINES.map(lambda lines: "\n".join(["| x |", "| --- |", *(f"| {x} |" for x in lines)])),
    ),
)


@pytest.fixture(scope="module")
def merging():
    """A tokenizer whose tokens depend on what stands around them."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<s>"])
    backend.train_from_iterator(["Sentence one. word word 。\n\n"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def squeezed(text):
    return "".join(text.split())


@given(TEXT, SIZES)
def test_no_chunk_is_too_large_and_nothing_is_lost(text, sizes):
    size, overlap = sizes
    found = spans(text, size, overlap, characters)
    assert "".join(squeezed(text[own:end]) for _, own, end in found) == squeezed(text)
    for start, own, end in found:
        assert 0 <= start <= own < end <= start + size
        assert own - start <= overlap
        assert not text[start:end].split("\n")[0].isspace()
    assert found == spans(text, size, overlap, characters)


@given(TEXT, SIZES)
def test_tokens_are_counted_chunk_by_chunk(merging, text, sizes):
    size, overlap = sizes
    found = spans(text, size, overlap, tokens(merging))
    assert "".join(squeezed(text[own:end]) for _, own, end in found) == squeezed(text)
    pieces = [text[part] for start, own, end in found for part in (slice(start, end), slice(start, own))]
    counts = [len(merging(piece, add_special_tokens=False).input_ids) for piece in pieces]
    assert all(count <= size for count in counts[::2])
    assert all(count <= overlap for count in counts[1::2])


@given(TEXT, SIZES)
def test_graphemes_that_fit_stay_whole(text, sizes):
    places = {match.start() for match in regex.finditer(r"\X", text)}
    assert all(own in places for _, own, _ in spans(text, *sizes, characters))


@given(st.lists(BLOCKS, max_size=12), st.integers(120, 400), st.integers(0, 60))
def test_blocks_that_fit_stay_whole_under_their_headings(blocks, size, overlap):
    marks = "-*"  # two lists with one mark would be one
    blocks = [(kind, block.replace("- ", f"{marks[n % 2]} ")) for n, (kind, block) in enumerate(blocks)]
    text = "\n\n".join(block for _, block in blocks)
    chunks = split(text, size, overlap)
    headings = []
    for kind, block in blocks:
        if kind == "heading":
            headings.append(block)
            continue
        whole = "\n\n".join([*headings, block])
        headings = []
        assert len(whole) > size or any(whole in piece for piece in chunks)
    for piece in chunks[:-1]:
        assert not piece.splitlines()[-1].startswith("## ")


def test_sections_come_before_paragraphs_and_paragraphs_before_full_chunks():
    text = f"# A\n\n{'One. ' * 10}\n\n{'Two. ' * 10}\n\n# B\n\n{'Three. ' * 10}"
    assert [piece.split()[1] for piece in split(text, 130, 0)] == ["A", "B"]
    assert [piece.split()[0] for piece in split(text, 80, 0)] == ["#", "Two.", "#"]


def test_what_is_too_large_is_cut_at_items_rows_lines_and_sentences():
    items = [f"- item {n} {'and more ' * 3}\n  of it" for n in range(6)]
    rows = [f"| row {n} | {'x ' * 9}|" for n in range(6)]
    code = [f"line_{n} = {n}" for n in range(20)]
    for text, marks in (
        ("\n".join(items), ("- ",)),
        ("\n".join(["| a | b |", "| --- | --- |", *rows]), ("| ",)),
        ("\n".join(["```", *code, "```"]), ("`", "line_")),
        ("It is said. So it was. " * 9, ("It", "So")),
        ("これは水です。" * 30, ("これ",)),
    ):
        pieces = split(text, 100, 0)
        assert len(pieces) > 1
        assert all(piece.startswith(marks) for piece in pieces)


def test_a_fence_stays_with_the_code_beside_it():
    code, text = "\n".join(["x" * 31] * 3), "A sentence. " * 5
    before = split(f"{text}\n\n```python\n{code}\n```", 100, 0)
    assert not any(piece.endswith("```python") for piece in before)
    after = split(f"```\n{code}\n```\n\n{text}", 100, 0)
    assert not any(piece.startswith("```\n\n") for piece in after)


def test_a_table_keeps_its_first_row_at_its_head():
    table = "\n".join(["| name | what |", "| --- | --- |", f"| long | {'very ' * 12}|", "| b | c |"])
    assert "| --- | --- |\n| long" in split(table, 100, 0)[0]


def test_a_line_that_leads_on_stays_with_what_it_leads_to():
    code, before = "```\n" + "step = 1\n" * 12 + "```", "A sentence of some length. " * 3
    assert split(f"{before}\n\nRun this:\n\n{code}", 150, 0)[1] == f"Run this:\n\n{code}"
    text = f"{before}\n\nPART TWO\n\n{'It is short. ' * 9}"
    assert split(text, 150, 0)[1].startswith("PART TWO\n")
    text = f"{before}\n\nIt is no title. \n\n{'It is short. ' * 9}"
    assert split(text, 150, 0)[1].startswith("It is short.")


def test_a_line_of_dashes_divides_as_a_heading_does():
    text = f"{'One. ' * 9}\n----------\n{'Two. ' * 9}\n\n{'Three. ' * 9}"
    assert [re.findall(r"\w+", piece)[0] for piece in split(text, 120, 0)] == ["One", "Two"]


def test_an_overlap_begins_where_one_may_begin_to_read():
    text = "First one is here. Second one is here.\n\nThird one is here. Fourth one."
    assert split(text, 60, 21)[1].startswith("Second one is here.\n\nThird")
    assert split(text, 45, 10)[1].startswith("Third")
    assert split(text.replace("\n\n", " "), 45, 10)[1].startswith("is here. Third")
    assert split(f"{text}\n\n# Next\n\n{text}", 80, 20)[1].startswith("# Next")
    assert split(f"Before.\n\n# Next\n\nOne.\n\n{text}", 90, 60)[1].startswith("# Next")


def test_an_overlap_with_code_is_whole_lines_of_code_that_goes_on():
    code = "\n".join(f"line_{n} = {n}" for n in range(12))
    assert all(piece.startswith("line_") for piece in split(f"```\n{code}\n```", 70, 30)[1:])
    assert split(f"```\n{code}\n```\n\n{'After it. ' * 15}", 160, 30)[1].startswith("After")


def test_a_long_word_is_cut_between_graphemes():
    assert {len(piece) for piece in split("👩‍👩‍👧" * 30, 12, 0)} == {10}
    assert {len(piece) for piece in split("e\u0301" * 30, 15, 0)} <= {14, 4}
    assert [len(piece) for piece in split("e" + "\u0301" * 25, 10, 0)] == [10, 10, 6]


def test_a_word_longer_than_a_chunk_is_cut_and_a_heading_stays_with_its_beginning():
    text = "# Key\n\n" + "0123456789" * 9
    assert split(text, 30, 0)[0].startswith("# Key\n\n0123")


def test_white_space_has_no_chunks():
    assert split(" \n\n\t\xa0\n", 50, 10) == []
