"""Lost in the Middle, and what retrievers write: a question with answers, among its passages the gold one.

    {"question": "who won the first nobel prize in physics", "answers": ["Wilhelm Conrad Röntgen"],
     "ctxs": [{"title": "Nobel Prize", "text": "The prize of 1902 …", "hasanswer": false, "isgold": false},
              {"title": "X-ray", "text": "Wilhelm Conrad Röntgen saw …", "hasanswer": true, "isgold": true}]}

Gold is the passage with `isgold`, else the one at `gold_index` (from 0), else the first with `hasanswer` (DPR
writes `has_answer`). It may be alone, as in the file of Natural Questions with oracle passages.

Source: github.com/nelson-liu/lost-in-the-middle (Liu et al. 2023, arXiv:2307.03172), qa_data; MIT, the text
CC BY-SA 3.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from stillroom.sources.question import Asked, QuestionAdapter, Record, passage


def fits(record: dict[str, Any]) -> bool:
    """An object with `ctxs`."""
    return "ctxs" in record


def read(record: Record) -> Iterator[Asked]:
    """The question, its documents in their order."""
    ctxs = record.objects("ctxs")
    passages = [passage(ctx) for ctx in ctxs]
    gold = _gold(record.value, [ctx.value for ctx in ctxs])
    question, answers = record.text("question"), tuple(record.texts("answers"))
    if gold is None:
        yield Asked(question, answers, None, id=record.own_id())
        return
    others = (*passages[:gold], *passages[gold + 1 :])
    yield Asked(question, answers, passages[gold], others, gold if others else None, record.own_id())


def _gold(record: dict[str, Any], ctxs: Sequence[dict[str, Any]]) -> int | None:
    """Where the gold passage stands."""
    marked = [i for i, ctx in enumerate(ctxs) if ctx.get("isgold")]
    holding = [i for i, ctx in enumerate(ctxs) if ctx.get("hasanswer") or ctx.get("has_answer")]
    stated = record.get("gold_index")
    if not marked and isinstance(stated, int) and 0 <= stated < len(ctxs):
        return stated
    return next(iter((*marked, *holding)), None)


ADAPTER = QuestionAdapter("question, answers, ctxs (Lost in the Middle)", fits, read)
