"""SQuAD 1.1 and 2.0: pages, their paragraphs, and questions about each, in one JSON object.

    {"version": "v2.0", "data": [{"title": "Wilhelm_R%C3%B6ntgen", "paragraphs": [
        {"context": "Wilhelm Conrad Röntgen was …",
         "qas": [{"id": "56be", "question": "Who took the first X-ray?", "is_impossible": false,
                  "answers": [{"text": "Röntgen", "answer_start": 15}]},
                 {"id": "56bf", "question": "Who took the last?", "is_impossible": true, "answers": []}]}]}]}

Gold is the paragraph; a question that it does not answer has no answers. Titles are no addresses any more.

Source: rajpurkar.github.io/SQuAD-explorer (Rajpurkar et al. 2016, arXiv:1606.05250; 2018, arXiv:1806.03822);
CC BY-SA 4.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, repeat
from typing import Any
from urllib.parse import unquote

from stillroom.sources.question import Asked, Passage, QuestionAdapter, Record, one_line


def fits(record: dict[str, Any]) -> bool:
    """The whole file, or one page of it."""
    return "data" in record or "paragraphs" in record


def read(record: Record) -> Iterator[Asked]:
    """The questions, page by page."""
    numbers = count(1) if "data" in record.value else repeat(None)
    for page in record.objects("data") if "data" in record.value else [record]:
        title = titled(page)
        for paragraph, number in zip(page.objects("paragraphs"), numbers, strict=False):
            gold = Passage(title, one_line(paragraph.text("context")))
            for qa in paragraph.objects("qas"):
                answers = () if qa.value.get("is_impossible") else qa.objects("answers")
                texts = tuple(dict.fromkeys(answer.text("text") for answer in answers))
                yield Asked(qa.text("question"), texts, gold, id=qa.own_id(), paragraph=number)


def titled(record: Record) -> str:
    """The page's title: addresses of Wikipedia are spelled `Beyonc%C3%A9_Knowles`."""
    title = record.value.get("title")
    return one_line(unquote(title).replace("_", " ")) if isinstance(title, str) else ""


ADAPTER = QuestionAdapter("data, paragraphs, qas (SQuAD)", fits, read)
