import json
import re
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from stillroom.records import read_conversations
from stillroom.retrieval import Index
from stillroom.sources.questions import Passage, Question
from stillroom.squad import normalise
from stillroom.stages import mqa

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


@pytest.fixture
def paths(tmp_path, base):
    for name in ("questions", "passages"):
        (tmp_path / name).mkdir()
    return mqa.Paths(
        questions=tmp_path / "questions",
        passages=tmp_path / "passages",
        base=base,
        train=tmp_path / "mqa.jsonl",
        benchmark=tmp_path / "benchmark",
        metrics=tmp_path / "mqa.json",
    )


def gold(n):
    text = f"The market of village {n} is on {DAYS[n % 7]}."
    return {"title": f"Village {n}", "text": text, "isgold": True}


def put(paths, count=40):
    questions = [
        {
            "question": f"When is the market of village {n}?",
            "answers": [DAYS[n % 7]],
            "ctxs": [
                {
                    "title": f"Village {n}",
                    "text": f"The market of village {n} is on {DAYS[n % 7]}.",
                    "isgold": True,
                }
            ],
        }
        for n in range(count)
    ]
    passages = [{"title": "Boats", "text": f"Boat number {n} of the village is blue."} for n in range(30)]
    (paths.questions / "q.jsonl").write_text("\n".join(map(json.dumps, questions)))
    (paths.passages / "p.jsonl").write_text("\n".join(map(json.dumps, passages)))


def results(paths):
    train = list(read_conversations(paths.train))
    evaluation = list(read_conversations(paths.benchmark / "eval.jsonl"))
    return train, evaluation, json.loads(paths.metrics.read_bytes())


def holding(record):
    """Where documents stand that hold an answer."""
    answers = [normalise(answer) for answer in record.meta["answers"]]
    texts = [normalise(text) for _, _, text in documents(record)]
    return [i for i, text in enumerate(texts) if any(answer in text for answer in answers)]


def documents(record):
    """(number, title, text) of each document line, read back from the prompt."""
    lines = record.messages[0].content.split("\n\n")[1].split("\n")
    return [re.fullmatch(r"Document \[(\d+)\]\(Title: (.*?)\) (.*)", line).groups() for line in lines]


def test_the_prompt_of_recipe_a_holds_one_gold_document(paths):
    put(paths)
    mqa.run(paths, mqa.Params(documents=(3, 9), eval_documents=[4, 8]))
    train, evaluation, _ = results(paths)
    for record in (*train, *evaluation):
        prompt, meta = record.messages[0].content, record.meta
        assert prompt.startswith(
            "Write a high-quality answer for the given question using only the provided search results "
            "(some of which might be irrelevant).\n\nDocument [1](Title: "
        )
        assert prompt.endswith(f"\n\nQuestion: {meta['question']}")
        found = documents(record)
        assert [int(number) for number, _, _ in found] == list(range(1, meta["documents"] + 1))
        assert holding(record) == [meta["gold_index"]]
        said = re.fullmatch(
            r"Answer: (\w+)\nLong Answer: (.*)\nGold Document ID: (\d+)", record.messages[1].content
        )
        assert said[1] == meta["answers"][0]
        assert found[int(said[3]) - 1][2] == said[2]


def test_each_held_out_question_is_asked_with_each_number(paths):
    put(paths)
    mqa.run(paths, mqa.Params(documents=(3, 9), eval_documents=[8, 4], eval_share=0.25))
    train, evaluation, metrics = results(paths)
    held = Counter(record.meta["group"] for record in evaluation)
    assert set(held.values()) == {2}
    assert len(held) == 10
    assert {record.meta["group"] for record in train} & set(held) == set()
    assert metrics["eval_by_documents"] == {"4": 10, "8": 10}


def test_gold_positions_and_numbers_of_documents_are_uniform(paths):
    put(paths, 400)
    mqa.run(paths, mqa.Params(documents=(4, 7), eval_documents=[], eval_share=0))
    train, _, _ = results(paths)
    numbers = Counter(record.meta["documents"] for record in train)
    assert all(70 <= numbers[n] <= 130 for n in (4, 5, 6, 7))
    places = Counter(int(4 * (r.meta["gold_index"] + 0.5) / r.meta["documents"]) for r in train)
    assert all(60 <= places[place] <= 140 for place in range(4))


def test_over_context_means_fewer_documents(paths):
    put(paths)
    mqa.run(
        paths, mqa.Params(documents=(20, 20), eval_documents=[4, 20], context_length=900, answer_tokens=50)
    )
    train, evaluation, metrics = results(paths)
    assert train
    assert all(2 <= record.meta["documents"] < 20 for record in train)
    assert metrics["shortened"] == len(train)
    assert metrics["tokens"]["p50"] > 0.8 * 900
    assert metrics["tokens"]["max"] <= 900
    assert {record.meta["documents"] for record in evaluation} == {4}
    assert metrics["dropped"]["eval_too_long"] == len(evaluation)


def test_passages_with_an_answer_never_stand_beside(paths):
    put(paths, 8)
    mqa.run(paths, mqa.Params(documents=(40, 40), eval_documents=[], eval_share=0))
    train, _, metrics = results(paths)
    assert {record.meta["documents"] for record in train} <= {37, 38}
    assert metrics["shortened"] == 8


def test_own_passages_come_first_and_lost_in_the_middle_files_are_read(paths):
    ctxs = [{"title": f"T{i}", "text": f"nothing {i}", "isgold": False} for i in range(4)]
    ctxs.insert(2, {"title": "G", "text": "It is Saturday", "isgold": True})
    row = {"question": "When?", "answers": ["Saturday"], "gold_index": 2, "ctxs": ctxs}
    (paths.questions / "20docs.jsonl").write_text(json.dumps(row))
    mqa.run(paths, mqa.Params(documents=(4, 4), eval_documents=[], completion="answer"))
    (record,) = results(paths)[0]
    titles = [title for _, title, _ in documents(record)]
    assert [title for title in titles if title != "G"] == ["T0", "T1", "T2"]
    assert titles[record.meta["gold_index"]] == "G"
    assert record.messages[1].content == "Saturday"


def test_equal_questions_are_one(paths):
    gold = Passage("G", "It is Saturday")
    twice = [Question("a", "When?", ("Saturday",), gold, (Passage("", str(i)),)) for i in range(2)]
    dropped = Counter()
    (one,) = mqa.unique(twice, dropped)
    assert one.others == (Passage("", "0"), Passage("", "1"))
    assert dropped == {"duplicate": 1}


def test_the_gold_answer_is_one_that_the_document_spells():
    question = Question("a", "Who?", ("Robert", "R. Lee"), Passage("R. Lee", "A general."), ())
    assert mqa.answer(question, 0, "answer") == "R. Lee"


def test_no_questions_make_empty_files(paths):
    mqa.run(paths, mqa.Params())
    train, evaluation, metrics = results(paths)
    assert (train, evaluation, metrics["questions"]) == ([], [], 0)


def test_the_same_input_gives_the_same_bytes(paths):
    outs = []
    for _ in range(2):
        put(paths)
        mqa.run(paths, mqa.Params(documents=(3, 9), eval_documents=[4, 8]))
        files = (paths.train, paths.benchmark / "eval.jsonl", paths.metrics)
        outs.append([path.read_bytes() for path in files])
    assert outs[0] == outs[1]


@pytest.mark.parametrize("wrong", [{"documents": (5, 3)}, {"documents": (1, 3)}, {"eval_documents": [1]}])
def test_impossible_numbers_of_documents(wrong):
    with pytest.raises(ValidationError):
        mqa.Params(**wrong)


def test_the_index_ranks_by_bm25_and_breaks_ties_by_place():
    texts = ["the cat sat", "a dog ran", "cat and dog", "cat sat", "a fish"]
    index = Index(texts)
    assert index.ranked("cat sat", 2) == [0, 3]
    assert index.ranked("nothing known", 3) == [0, 1, 2]
    assert sorted(index.ranked("dog", 9)) == [0, 1, 2, 3, 4]
    assert index.ranked("dog", 9)[:2] == [1, 2]
    assert Index([]).ranked("cat", 3) == []


@pytest.mark.real_data
def test_natural_questions(paths):
    folder = Path("../shared/data/mqa")
    if not folder.is_dir():
        pytest.skip("../shared/data is not beside the checkout")
    lines = (folder / "20docs.jsonl").read_text().splitlines()[:25]
    (paths.questions / "20docs.jsonl").write_text("\n".join(lines))
    mqa.run(paths, mqa.Params(documents=(10, 40), eval_documents=[20], eval_share=0.2, context_length=60_000))
    train, evaluation, metrics = results(paths)
    assert len(train) + len(evaluation) == 25
    assert metrics["shortened"] <= 2
    assert all(holding(record) == [record.meta["gold_index"]] for record in evaluation)
