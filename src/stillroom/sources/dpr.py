"""DPR's training data, and what has its form: a question with right and wrong passages, the best first.

    {"question": "who won the first nobel prize in physics", "answers": ["Wilhelm Conrad Röntgen"],
     "positive_ctxs": [{"title": "Röntgen", "text": "Wilhelm Conrad Röntgen was …", "passage_id": "42"}],
     "hard_negative_ctxs": [{"title": "Nobel Prize", "text": "The prize of 1902 …", "passage_id": "7"}],
     "negative_ctxs": []}

Gold is the first positive passage that holds an answer, else the first; the other positive ones are left out.
The hard negatives come before the others.

Source: github.com/facebookresearch/DPR (Karpukhin et al. 2020, arXiv:2004.04906), biencoder-nq-train.json;
CC BY-NC 4.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stillroom.sources.question import Asked, QuestionAdapter, Record, passage
from stillroom.squad import holds

NEGATIVE = ("hard_negative_ctxs", "negative_ctxs")


def fits(record: dict[str, Any]) -> bool:
    """An object with passages by their worth."""
    return "positive_ctxs" in record


def read(record: Record) -> Iterator[Asked]:
    """The question, its wrong passages the hard ones first."""
    answers = tuple(record.texts("answers"))
    positive = [passage(ctx) for ctx in record.objects("positive_ctxs")]
    gold = next((p for p in positive if holds(p.whole, answers)), positive[0] if positive else None)
    lists = [record.objects(name) for name in NEGATIVE if record.value.get(name) is not None]
    others = tuple(passage(ctx) for ctxs in lists for ctx in ctxs)
    yield Asked(record.text("question"), answers, gold, others, id=record.own_id())


ADAPTER = QuestionAdapter("question, answers, positive_ctxs (DPR)", fits, read)
