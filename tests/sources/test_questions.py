import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from stillroom.errors import InputError
from stillroom.sources import dpr, lost_in_the_middle, passages, squad, squad_rows
from stillroom.sources.passages import read_passages
from stillroom.sources.question import Asked, Origin, Passage, Record
from stillroom.sources.questions import ADAPTERS, read_questions

NOBEL = "who won the first nobel prize in physics"
XRAY = Passage("Wilhelm Röntgen", "Wilhelm Conrad Röntgen was …")
FIRST = "Who took the first X-ray?"
WANTED = {
    dpr: [
        Asked(
            NOBEL,
            ("Wilhelm Conrad Röntgen",),
            Passage("Röntgen", XRAY.text),
            (Passage("Nobel Prize", "The prize of 1902 …"),),
        )
    ],
    lost_in_the_middle: [
        Asked(
            NOBEL,
            ("Wilhelm Conrad Röntgen",),
            Passage("X-ray", "Wilhelm Conrad Röntgen saw …"),
            (Passage("Nobel Prize", "The prize of 1902 …"),),
            gold_index=1,
        )
    ],
    squad: [
        Asked(FIRST, ("Röntgen",), XRAY, id="56be", paragraph=1),
        Asked("Who took the last?", (), XRAY, id="56bf", paragraph=1),
    ],
    squad_rows: [Asked(FIRST, ("Röntgen",), XRAY, id="56be")],
}
"""what each module's worked example says"""
GOLD = {"title": "Merrow", "text": "The market is on Saturday.", "isgold": True}
OTHER = {"title": "Wren Bay", "text": "There is no market.", "isgold": False}
REAL = Path("../shared/data")


def example(module):
    """The worked example of a module's docstring."""
    return json.loads(re.search(r"^ *({.*?)\n\n", module.__doc__, re.DOTALL | re.MULTILINE)[1])


def put(folder, name, rows):
    text = "\n".join(json.dumps(row) for row in rows)
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())


def asked(folder):
    """The questions of a folder, none of which is left out."""
    dropped = Counter()
    found = list(read_questions(folder, dropped))
    assert not dropped
    return found


@pytest.mark.parametrize("module", WANTED)
def test_the_worked_example_is_read_by_its_adapter_and_no_other(module):
    record = example(module)
    assert [adapter.name for adapter in ADAPTERS if adapter.fits(record)] == [module.ADAPTER.name]
    assert list(module.ADAPTER.read(Record("f: record 1", record))) == WANTED[module]


def test_every_adapter_has_a_worked_example_and_a_source():
    assert {module.ADAPTER for module in WANTED} == set(ADAPTERS)
    assert all("\nSource: " in module.__doc__ for module in WANTED)


def test_one_file_may_mix_shapes_and_a_folder_may_mix_files(tmp_path):
    examples = [example(module) for module in WANTED]
    put(tmp_path, "a.jsonl", examples)
    put(tmp_path, "b.jsonl.gz", examples)
    (tmp_path / "c.json").write_text(json.dumps(examples))
    with pa.output_stream(tmp_path / "d.jsonl.zst", compression="zstd") as file:
        file.write((tmp_path / "a.jsonl").read_bytes())
    dropped = Counter()
    found = list(read_questions(tmp_path, dropped))
    one = [(q.text, q.answers, q.gold, q.others) for qs in WANTED.values() for q in qs if q.answers]
    assert [(q.text, q.answers, q.gold, q.others) for q, _, _ in found] == 4 * one
    assert dropped == {"no_answer": 4}
    places = [(source.file, source.record) for _, _, source in found]
    assert places == [
        (f"{tmp_path.name}/{path.name}", n)
        for path in sorted(tmp_path.iterdir())
        for n in (1, 2, 1, 4)  # of SQuAD's object, the paragraph
    ]
    assert {source.shape for _, _, source in found} == {adapter.name for adapter in ADAPTERS}


def test_squad_as_published_is_one_object_and_may_be_indented(tmp_path):
    pages = example(squad)["data"]
    (tmp_path / "train.json").write_text(json.dumps({"data": pages * 3}))
    (tmp_path / "dev.json").write_text(json.dumps(example(squad), indent=1))
    pa.parquet.write_table(pa.Table.from_pylist([example(squad_rows)]), tmp_path / "rows.parquet")
    found = list(read_questions(tmp_path, Counter()))
    assert [q.asked.text for q in found] == [FIRST] * 5
    assert {q.gold for q in found} == {XRAY}
    assert [q.source.record for q in found] == [1, 1, 1, 2, 3]  # dev, rows, train


@pytest.mark.parametrize(
    ("marks", "index"),
    [
        ([{}, {"isgold": True}, {"isgold": True}], 1),
        ([{"hasanswer": True}, {}, {"isgold": 1}], 2),
        ([{"has_answer": False}, {"has_answer": True}, {}], 1),
    ],
)
def test_which_passage_is_gold(marks, index):
    ctxs = [{"text": f"text {n}", **mark} for n, mark in enumerate(marks)]
    record = {"question": "Which?", "answers": ["text"], "ctxs": ctxs}
    for more in ({}, {"gold_index": 2}):
        (found,) = lost_in_the_middle.read(Record("f", {**record, **more}))
        stated = 2 if more and not any("isgold" in mark for mark in marks) else index
        assert (found.gold.text, found.gold_index) == (f"text {stated}", stated)
        assert [p.text for p in found.others] == [f"text {n}" for n in range(3) if n != stated]


def test_dprs_first_positive_passage_without_an_answer_gives_way(tmp_path):
    texts = [{"title": "", "text": text} for text in ("no", "the answer is Bob", "Bob again")]
    record = {"question": "Who?", "answers": ["the", "Bob"], "positive_ctxs": texts, "negative_ctxs": None}
    put(tmp_path, "q.jsonl", [record])
    ((found, gold, _),) = asked(tmp_path)
    assert (gold.text, found.others, found.answers) == ("the answer is Bob", (), ("Bob",))


def test_what_cannot_be_asked_is_counted(tmp_path):
    rows = [
        {"question": "Which?", "answers": ["The", "?!"], "ctxs": [GOLD]},
        {"question": "Which?", "answers": ["Monday"], "ctxs": [OTHER]},
        {"question": "Which?", "answers": ["Monday"], "ctxs": [GOLD]},
        {"question": "Which?", "answers": ["Monday"], "positive_ctxs": []},
    ]
    put(tmp_path, "q.jsonl", rows)
    dropped = Counter()
    assert list(read_questions(tmp_path, dropped)) == []
    assert dropped == {"no_answer": 1, "no_gold": 2, "gold_without_answer": 1}


def test_documents_are_one_line(tmp_path):
    put(tmp_path, "p.jsonl", [{"title": "A\nB", "text": " one\ntwo\u2028three  four\r\n"}])
    assert [passage for _, passage in read_passages(tmp_path)] == [Passage("A B", "one two three  four")]


def test_passages_in_every_shape(tmp_path):
    rows = [{"id": 1, "title": "A", "text": 'say "x"'}, {"text": "untitled"}]
    put(tmp_path, "a.jsonl", rows)
    (tmp_path / "b.json").write_text(json.dumps(rows))
    table = 'id\ttext\ttitle\n1\t"say ""x"""\tA\n2\tuntitled\t\n'
    (tmp_path / "c.tsv").write_text(table)
    (tmp_path / "d.tsv.gz").write_bytes(gzip.compress(table.encode()))
    found = list(read_passages(tmp_path))
    assert [passage for _, passage in found] == 4 * [Passage("A", 'say "x"'), Passage("", "untitled")]
    assert [origin for origin, _ in found][:3:2] == [
        Origin(f"{tmp_path.name}/a.jsonl", 1),
        Origin(f"{tmp_path.name}/b.json", 1),
    ]


def test_the_worked_table_of_passages_has_the_columns_of_dprs():
    line = next(line for line in passages.__doc__.splitlines() if line.split()[:1] == ["id"])
    assert line.split() == ["id", "text", "title"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answers": ["a"], "ctxs": []}, "`question` must be a text"),
        ({"question": "q", "answers": "a", "ctxs": []}, "`answers` must be a list"),
        ({"question": "q", "answers": ["a"], "ctxs": ["x"]}, "`ctxs` must be a list"),
        ({"question": "q", "answers": ["a"], "ctxs": [{"title": "t"}]}, r"ctxs\[0\]: `text` must be a text"),
        ({"question": "q", "answers": ["a"], "positive_ctxs": {}}, "`positive_ctxs` must be a list"),
        ({"data": [{"title": "t", "paragraphs": [{"context": "c"}]}]}, r"data\[0\]: paragraphs\[0\]: `qas`"),
        ({"context": "c", "question": "q", "answers": {"text": "a"}}, "answers: `text` must be a list"),
        ({"query": "q"}, r"unknown shape \(fields: query\)\n  known shapes: .*SQuAD"),
    ],
)
def test_a_malformed_question_is_named(tmp_path, row, message):
    put(tmp_path, "q.jsonl", [{"question": "Which?", "answers": ["market"], "ctxs": [GOLD]}, row])
    with pytest.raises(InputError, match=rf"q.jsonl: record 2: (.*: )?.*{message}"):
        list(read_questions(tmp_path, Counter()))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"{", "record 1: not valid JSON"),
        ("a.jsonl", b"[1]", "record 1: a JSON object was expected"),
        ("a.jsonl", b'{"title": "t"}', "record 1: `text` must be a text"),
        ("a.csv", b"x", "unknown kind"),
        ("a.jsonl.gz", b"\x1f\x8b\x08torn", "cannot be read"),
        ("a.tsv", b"text\n", "a.tsv:1: .*columns `text` and `title`"),
        ("a.tsv", b"text\ttitle\nx\tt\nx\n", "a.tsv:3: .*not as many columns"),
        ("a.tsv", b"text\ttitle\n\tt\n", "a.tsv:2: .*`text` is empty"),
        ("a.tsv", b'text\ttitle\n"x\tt\n', "a.tsv:.*unexpected end"),
        ("a.tsv", b"text\ttitle\n\xff\tt\n", "not a table"),
        ("a.tsv.gz", b"\x1f\x8b\x08torn", "not a table"),
    ],
)
def test_bad_files_of_passages_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        list(read_passages(tmp_path))
    assert name in str(error.value)


@pytest.mark.parametrize(("content", "message"), [("{", "not valid JSON"), ("[\n1]", "object was expected")])
def test_bad_files_of_questions_are_named(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=rf"a.json.*{message}"):
        list(read_questions(tmp_path, Counter()))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        list(read_passages(tmp_path / "nowhere"))


@pytest.mark.real_data
@pytest.mark.parametrize(("folder", "count", "prompts"), [("nq", 1325, 0), ("mqa", 324, 324)])
def test_natural_questions(folder, count, prompts):
    if not (REAL / folder).is_dir():
        pytest.skip("../shared/data is not beside the checkout")
    found = asked(REAL / folder)
    assert len(found) == count
    assert sum(question.asked.gold_index is not None for question in found) == prompts
