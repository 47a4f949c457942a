from pathlib import Path

import pytest

from stillroom.errors import ParamsError
from stillroom.raft.pairs import Chunk
from stillroom.raft.prompts import Prompts, load
from stillroom.records import Message
from stillroom.teacher.prompts import answer_messages, question_messages

PROMPTS = Path(__file__).parents[2] / "prompts"
CHUNK = Chunk("d#0", "d", "A title", "A {count} passage {with} {{braces}} {0}.")
ANSWERS = "answers: '{passage} {question} ##begin_quote## ##end_quote## <ANSWER>:'\n"
QUESTIONS = "questions: '{passage} {count}'\n"


def test_without_a_file_the_words_are_those_that_the_embedded_teacher_learned():
    for prompts in (load(PROMPTS, None), load(PROMPTS, "raft-short.yaml")):
        assert prompts == Prompts()
        assert prompts.ask_questions(CHUNK, 3) == question_messages(CHUNK.text, 3)
        assert prompts.ask_answer(CHUNK, "Why?") == answer_messages(CHUNK.text, "Why?")


@pytest.mark.parametrize("name", sorted(p.name for p in PROMPTS.glob("*.yaml")))
def test_the_files_of_the_checkout_are_valid_and_hold_passage_and_question(name):
    prompts = load(PROMPTS, name)
    for messages in (prompts.ask_questions(CHUNK, 37), prompts.ask_answer(CHUNK, "Why {title}?")):
        assert CHUNK.text in messages[-1].content
        assert [m.role for m in messages if m.role != "system"][::2] == ["user"] * -(-len(messages) // 2)
    assert "37" in prompts.ask_questions(CHUNK, 37)[-1].content
    assert "Why {title}?" in prompts.ask_answer(CHUNK, "Why {title}?")[-1].content


def test_messages_placeholders_and_braces(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "questions:\n- system: 'About {title}.'\n- user: '{passage} {{not}} {count}'\n" + ANSWERS
    )
    assert load(tmp_path, "a.yaml").ask_questions(CHUNK, 2) == (
        Message("system", "About A title."),
        Message("user", f"{CHUNK.text} {{not}} 2"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (QUESTIONS, "`questions` and `answers` were expected, found: questions"),
        ("", "found: none"),
        ("a: [", "not valid YAML"),
        ("questions: '{passage}'\n" + ANSWERS, r"a\.yaml:1: questions: the placeholder {count} is missing"),
        (QUESTIONS + ANSWERS.replace("{question}", ""), r"a\.yaml:2: answers: .*{question} is missing"),
        (QUESTIONS + ANSWERS.replace("<ANSWER>:", ""), r"a\.yaml:2: .*does not ask for `<ANSWER>:`"),
        (
            "questions: |\n  {passage}\n  {count} {chunk}\n" + ANSWERS,
            r"a\.yaml:3: questions: unknown placeholder {chunk}\n.*known here: {count}, {passage}, {title}",
        ),
        ("questions:\n- user: '{passage} {count} { '\n" + ANSWERS, r"a\.yaml:2: .*unknown placeholder {"),
        ("questions: '{passage!r} {count:d}'\n" + ANSWERS, "unknown placeholder {passage!r}"),
        ("questions:\n- user: '{passage} {count}'\n- assistant: x\n" + ANSWERS, "must be the user's"),
        ("questions:\n- user: x\n- human: x\n" + ANSWERS, r"a\.yaml:3: questions: .*a list of messages"),
        ("questions: []\n" + ANSWERS, "a text was expected"),
    ],
)
def test_an_error_names_file_and_line(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ParamsError, match=message):
        load(tmp_path, "a.yaml")


def test_an_absent_file_is_an_error_that_names_the_others():
    with pytest.raises(ParamsError, match=r"no such file\n.*raft-gpt\.yaml, raft-llama\.yaml"):
        load(PROMPTS, "raft.yaml")
