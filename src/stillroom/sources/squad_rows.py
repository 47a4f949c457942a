"""SQuAD as the hub's tables have it: a row for each question, the answers a list of texts and one of places.

    {"id": "56be", "title": "Wilhelm_R%C3%B6ntgen", "context": "Wilhelm Conrad Röntgen was …",
     "question": "Who took the first X-ray?", "answers": {"text": ["Röntgen"], "answer_start": [15]}}

Gold is the context; a question that it does not answer (SQuAD 2.0) has no answers.

Source: huggingface.co/datasets/rajpurkar/squad and squad_v2; CC BY-SA 4.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stillroom.sources.question import Asked, Passage, QuestionAdapter, Record, one_line
from stillroom.sources.squad import titled


def fits(record: dict[str, Any]) -> bool:
    """An object with a question, its context, and answers in columns."""
    return "context" in record and isinstance(record.get("answers"), dict)


def read(record: Record) -> Iterator[Asked]:
    """The question."""
    answers = Record(f"{record.where}: answers", record.value["answers"]).texts("text")
    gold = Passage(titled(record), one_line(record.text("context")))
    yield Asked(record.text("question"), tuple(dict.fromkeys(answers)), gold, id=record.own_id())


ADAPTER = QuestionAdapter("id, title, context, question, answers (SQuAD's rows)", fits, read)
