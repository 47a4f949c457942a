from pathlib import Path

import pytest

from stillroom.errors import InputError
from stillroom.raft.answers import fault
from stillroom.records import Message
from stillroom.stages import extract, raft
from stillroom.teacher import curriculum
from stillroom.teacher.prompts import answer_messages, question_messages

FIXTURES = Path(__file__).parents[2] / "data/fixtures"
TEXT = "The mill turns at dawn. It rests at noon.\n\nThe miller keeps three cats, all of them grey."
QUOTES = [
    '{"document": "mill.txt", "question": "When does it turn?", "quote": "turns at dawn", "answer": "dawn"}',
    '{"document": "mill.txt", "question": "When does it rest?", "quote": "at\\n noon", "answer": "noon"}',
    '{"document": "mill.txt", "question": "How many cats?", "quote": "three cats", "answer": "three"}',
]


@pytest.fixture
def documents(tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "mill.txt").write_text(TEXT)
    (folder / "other.txt").write_text("Nothing is asked about this one.")
    return folder


def taught(tmp_path, documents, lines, size=60):
    path = tmp_path / "lessons.jsonl"
    path.write_text("\n".join(lines) + "\n")
    lessons = curriculum.lessons(path)
    return list(curriculum.lesson_conversations(lessons, documents, size=size, overlap=0, questions=2))


def test_each_passage_teaches_its_questions_and_answers(tmp_path, documents):
    first, second = TEXT.split("\n\n")
    asked, turn, rest, cats, three = taught(tmp_path, documents, QUOTES)
    assert asked[:-1] == question_messages(first, 2)
    assert asked[-1] == Message("assistant", "When does it turn?\nWhen does it rest?")
    assert turn[:-1] == answer_messages(first, "When does it turn?")
    assert rest[:-1] == answer_messages(first, "When does it rest?")
    assert cats[:-1] == question_messages(second, 2)
    assert three[:-1] == answer_messages(second, "How many cats?")
    for messages, passage in ((turn, first), (rest, first), (three, second)):
        assert fault(messages[-1].content, "stop", passage) is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"document": "mill.txt", "question": "?"}', r"lessons\.jsonl:1: not a lesson: .*quote"),
        (QUOTES[0].replace("dawn", "dusk"), r"mill\.txt: does not hold the quote 'turns at dusk'"),
        (QUOTES[0].replace("mill.txt", "gone.txt"), r"gone\.txt: is absent"),
    ],
)
def test_a_lesson_that_does_not_fit_is_an_error(tmp_path, documents, line, message):
    with pytest.raises(InputError, match=message):
        taught(tmp_path, documents, [line])


def test_the_fixtures_teach_the_prompts_that_raft_sends():
    lessons = curriculum.lessons(FIXTURES / "lessons.jsonl")
    settings = raft.Params(chunk_size=400, chunk_overlap=0, questions_per_chunk=3)
    chunks = raft.passages(FIXTURES / "documents", settings, Path("no tokens are counted")).chunks
    sent = {question_messages(chunk.text, 3) for chunk in chunks}
    learned = [
        talk
        for talk in curriculum.lesson_conversations(
            lessons, FIXTURES / "documents", size=400, overlap=0, questions=3
        )
        if talk[:-1] in sent
    ]
    assert len(learned) > 0.8 * len(sent)
    asked = {line for talk in learned for line in talk[-1].content.splitlines()}
    assert len(asked & {lesson.question for lesson in lessons}) > 0.9 * len(lessons)


def test_the_fixtures_teach_the_turns_that_distill_sends():
    settings = extract.Params(max_characters=1500, min_characters=3)
    learned = {
        tuple(m.content for m in talk if m.role == "user")
        for talk in curriculum.conversations(FIXTURES / "sharegpt.json")
    }
    asked = [
        tuple(m.content for m in c.messages if m.role == "user")
        for c in extract.cleaned(FIXTURES / "sharegpt.json", settings)
    ]
    assert len(asked) > 140
    assert sum(turns in learned for turns in asked) > 0.95 * len(asked)
