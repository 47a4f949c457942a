import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from stillroom.errors import InputError
from stillroom.sources.questions import Passage, holds, read_passages, read_questions

GOLD = {"title": "Merrow", "text": "The market is on Saturday.", "isgold": True}
OTHER = {"title": "Wren Bay", "text": "There is no market.", "isgold": False}


def put(folder, name, rows):
    text = "\n".join(json.dumps(row) for row in rows)
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())


def test_both_shapes_and_gzip(tmp_path):
    put(tmp_path, "a.jsonl.gz", [{"question": "Which day?", "answers": ["Saturday", "the"], "ctxs": [GOLD]}])
    plain = {key: GOLD[key] for key in ("title", "text")}
    put(
        tmp_path,
        "b.jsonl",
        [{"question": "And?", "answers": ["Saturday"], "gold_index": 1, "ctxs": [OTHER, plain]}],
    )
    (tmp_path / "c.json").write_text(
        json.dumps([{"question": "So?", "answers": ["market"], "ctxs": [OTHER | {"isgold": 1}]}])
    )
    dropped = Counter()
    first, second, third = read_questions(tmp_path, dropped)
    assert first.answers == ("Saturday",)
    assert second.gold == Passage("Merrow", "The market is on Saturday.")
    assert second.others == (Passage("Wren Bay", "There is no market."),)
    assert third.gold.title == "Wren Bay"
    assert not dropped


def test_what_cannot_be_asked_is_counted(tmp_path):
    rows = [
        {"question": "Which?", "answers": ["The", "?!"], "ctxs": [GOLD]},
        {"question": "Which?", "answers": ["Monday"], "ctxs": [OTHER]},
        {"question": "Which?", "answers": ["Monday"], "ctxs": [GOLD]},
    ]
    put(tmp_path, "q.jsonl", rows)
    dropped = Counter()
    assert list(read_questions(tmp_path, dropped)) == []
    assert dropped == {"no_answer": 1, "no_gold": 1, "gold_without_answer": 1}


def test_answers_are_found_as_the_benchmark_finds_them():
    assert holds("The cat's HATS.", ("Cats hat",))
    assert not holds("cat, hat", ("cats",))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answers": ["a"], "ctxs": []}, "`question` must be a text"),
        ({"question": "q", "answers": "a", "ctxs": []}, "`answers` must be a list"),
        ({"question": "q", "answers": ["a"], "ctxs": ["x"]}, "`ctxs` must be a list"),
        ({"question": "q", "answers": ["a"], "ctxs": [{"title": "t"}]}, "`text` must be a text"),
    ],
)
def test_a_malformed_question_is_named(tmp_path, row, message):
    put(tmp_path, "q.jsonl", [{"question": "Which?", "answers": ["market"], "ctxs": [GOLD]}, row])
    with pytest.raises(InputError, match=rf"q.jsonl:2: {message}"):
        list(read_questions(tmp_path, Counter()))


def test_passages_name_the_row(tmp_path):
    put(tmp_path, "a.jsonl", [{"title": "Merrow"}])
    with pytest.raises(InputError, match=r"a.jsonl:1: `text`"):
        list(read_passages(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"{", "not valid JSON"),
        ("a.jsonl", b"[1]", "object was expected"),
        ("a.json", b"{}", "array was expected"),
        ("a.csv", b"x", "not a JSON file"),
        ("a.jsonl.gz", b"\x1f\x8b\x08torn", "damaged"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        list(read_passages(tmp_path))
    assert name in str(error.value)


@pytest.mark.real_data
def test_natural_questions():
    folder = Path("../shared/data/nq")
    if not folder.is_dir():
        pytest.skip("../shared/data is not beside the checkout")
    dropped = Counter()
    assert len(list(read_questions(folder, dropped))) == 1325
    assert not dropped
