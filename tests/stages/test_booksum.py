import json
from pathlib import Path

import pytest

from stillroom.errors import InputError
from stillroom.records import read_conversations
from stillroom.stages import booksum


@pytest.fixture
def paths(tmp_path, base):
    (tmp_path / "chapters").mkdir()
    return booksum.Paths(
        chapters=tmp_path / "chapters",
        base=base,
        train=tmp_path / "booksum.jsonl",
        benchmark=tmp_path / "benchmark",
        metrics=tmp_path / "booksum.json",
    )


def put(paths, rows):
    (paths.chapters / "chapters.jsonl").write_text("\n".join(json.dumps(row) for row in rows))


def chapters(books=5, each=3, size=200):
    return [
        {"book": f"Book {b}", "i": i, "chapter": f"{b}.{i} " + "x" * size, "summary": f"Of {b}.{i}."}
        for b in range(books)
        for i in range(each)
    ]


def results(paths):
    train = list(read_conversations(paths.train))
    evaluation = list(read_conversations(paths.benchmark / "eval.jsonl"))
    return train, evaluation, json.loads(paths.metrics.read_bytes())


def test_books_stand_on_one_side_only(paths):
    put(paths, chapters())
    booksum.run(paths, booksum.Params(eval_share=0.4))
    train, evaluation, metrics = results(paths)
    sides = [{record.meta["book"] for record in side} for side in (train, evaluation)]
    assert sides[0] & sides[1] == set()
    assert [len(side) for side in sides] == [3, 2]
    assert len(train) + len(evaluation) == 15
    assert (metrics["train"], metrics["eval"], metrics["eval_books"]) == (9, 6, 2)


def test_a_record_is_chapter_request_summary(paths):
    put(paths, chapters(books=6, each=6))
    booksum.run(paths, booksum.Params())
    train, _, _ = results(paths)
    requests = set()
    for record in train:
        user, assistant = record.messages
        text, request = user.content.split("\n\n")
        assert text.startswith(f"{record.meta['book'][-1]}.{record.meta['chapter']} xxx")
        assert assistant.content == f"Of {record.meta['book'][-1]}.{record.meta['chapter']}."
        assert record.source == "booksum"
        requests.add(request)
    assert requests == set(booksum.REQUESTS)


def test_what_is_too_long_is_dropped_and_counted(paths):
    rows = chapters(books=2, each=2)
    rows[0]["chapter"] += "y" * 1000
    put(paths, rows)
    params = booksum.Params(context_length=600, answer_tokens=100, eval_share=0.5)
    booksum.run(paths, params)
    train, evaluation, metrics = results(paths)
    assert len(train) + len(evaluation) == 3
    assert metrics["dropped"] == {"duplicate": 0, "too_long": 1}
    assert metrics["tokens"]["max"] <= 600


def test_the_answer_room_counts_for_evaluation_alone(paths):
    put(paths, chapters(books=2, each=1))
    longest = 200 + len("0.0 ") + max(map(len, booksum.REQUESTS)) + len("\n\n[INST]\n\n[/INST]\n\n") + 1
    booksum.run(paths, booksum.Params(context_length=longest + 20, answer_tokens=60, eval_share=0.5))
    train, evaluation, _ = results(paths)
    assert (len(train), len(evaluation)) == (1, 0)


def test_several_summaries_of_a_chapter_stay_and_repeats_go(paths):
    rows = chapters(books=1, each=1)
    put(paths, [*rows, *rows, rows[0] | {"summary": "Another."}])
    booksum.run(paths, booksum.Params())
    train, evaluation, metrics = results(paths)
    assert sorted(record.messages[1].content for record in train) == ["Another.", "Of 0.0."]
    assert evaluation == []
    assert metrics["dropped"]["duplicate"] == 1


def test_no_chapters_make_empty_files(paths):
    booksum.run(paths, booksum.Params())
    assert results(paths)[:2] == ([], [])
    assert results(paths)[2]["chapters"] == 0


def test_the_same_input_gives_the_same_bytes_whatever_its_order(paths):
    outs = []
    for rows in (chapters(), chapters()[::-1]):
        put(paths, rows)
        booksum.run(paths, booksum.Params())
        files = (paths.train, paths.benchmark / "eval.jsonl", paths.metrics)
        outs.append([path.read_bytes() for path in files])
    assert outs[0] == outs[1]


def test_a_bad_chapter_leaves_nothing_behind(paths):
    put(paths, [*chapters(), {"book": "B", "i": 1, "chapter": "", "summary": "s"}])
    with pytest.raises(InputError, match=r"chapters.jsonl:16: `chapter`"):
        booksum.run(paths, booksum.Params())
    assert not paths.train.exists()
    assert not paths.benchmark.exists()


@pytest.mark.real_data
def test_real_chapters(paths):
    folder = Path("../shared/data/chapters")
    if not folder.is_dir():
        pytest.skip("../shared/data is not beside the checkout")
    paths = booksum.Paths(**{**paths.__dict__, "chapters": folder})
    booksum.run(paths, booksum.Params(context_length=200_000))
    train, evaluation, metrics = results(paths)
    assert (len(train) + len(evaluation), metrics["dropped"]["too_long"]) == (44, 0)
    assert {r.meta["book"] for r in train} & {r.meta["book"] for r in evaluation} == set()
