"""What the embedded teacher learns: the very conversations that `distill` and `raft` will have with it.

dump, documents, lessons.jsonl ──▶ conversations with answers

A lesson is `{"document", "question", "quote", "answer"}`: `document` is a file of the documents' folder,
`quote` is verbatim in it. It is asked about every passage that holds its quote, cut as `raft` cuts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stillroom.artifacts import read_jsonl
from stillroom.errors import InputError
from stillroom.records import Message
from stillroom.sources import documents
from stillroom.sources.chunks import split
from stillroom.stages import extract
from stillroom.teacher import prompts
from stillroom.teacher.replies import spaced

Messages = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Lesson:
    """A question about a document, with the quote that answers it."""

    document: str
    question: str
    quote: str
    answer: str


def conversations(dump: Path) -> list[Messages]:
    """The dump's conversations with their answers, cleaned as `extract` cleans them.

    Raises InputError where the dump is absent or of no known shape.
    """
    return [conversation.messages for conversation in extract.cleaned(dump, extract.Params(keep="all"))]


def lessons(path: Path) -> list[Lesson]:
    """The lessons of a file. Raises InputError naming the line that is none."""
    found = []
    for number, row in read_jsonl(path):
        try:
            found.append(Lesson(**row))
        except TypeError as error:
            raise InputError(f"not a lesson: {error}", where=f"{path}:{number}") from None
    return found


def lesson_conversations(
    given: Sequence[Lesson], folder: Path, *, size: int, overlap: int, questions: int
) -> Iterator[Messages]:
    """For every passage of the documents: writing questions about it, and answering each of its lessons.

    A quote that the cut divides is not learned: `raft` could not use it either. Raises InputError where a
    lesson's document is absent or does not hold its quote.
    """
    texts = {document.id: document.text for document in documents.read_documents(folder)}
    for lesson in given:
        if spaced(lesson.quote) not in spaced(texts.get(lesson.document, "")):
            what = "does not hold" if lesson.document in texts else "is absent; it should hold"
            raise InputError(f"{what} the quote {lesson.quote!r}", where=str(folder / lesson.document))
    for name, text in texts.items():
        mine = [lesson for lesson in given if lesson.document == name]
        for passage in split(text, size, overlap):
            here = [lesson for lesson in mine if spaced(lesson.quote) in spaced(passage)]
            yield from _about(passage, here, questions)


def _about(passage: str, here: Sequence[Lesson], questions: int) -> Iterator[Messages]:
    """What is said about one passage, where some lesson is about it."""
    if here:
        asked = "\n".join(lesson.question for lesson in here[:questions])
        yield (*prompts.question_messages(passage, questions), Message("assistant", asked))
    for lesson in here:
        answer = prompts.cot_answer(lesson.quote, lesson.answer)
        yield (*prompts.answer_messages(passage, lesson.question), Message("assistant", answer))
