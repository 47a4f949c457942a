"""What the teacher is asked about a passage, as dialogues: one for each question that it may write.

chunk, n ──▶ interview: ask for questions, then for the answer to the nth ──▶ Outcome

All interviews about a passage ask for the same list of questions, which is bought once. So each question's
answer is on its way as soon as the list is there: two waves of requests in a batch, whatever their number.
Which of two equal questions about different passages is used is decided when all are answered
(`distinct`): the first in the documents' order whose answer holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import orjson

from stillroom.artifacts import sha256
from stillroom.params import Sampling
from stillroom.raft import answers
from stillroom.raft.answers import Policies
from stillroom.raft.pairs import Chunk, Pair, Side, pair_id
from stillroom.raft.prompts import Prompts
from stillroom.raft.questions import Listing, listed, sameness
from stillroom.teacher.requests import Dialogue, Request


@dataclass(frozen=True, slots=True)
class Interview:
    """How passages are asked about."""

    prompts: Prompts
    count: int
    """questions asked for, and at most used"""
    questions: Sampling
    answers: Sampling
    policies: Policies


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an interview came to."""

    listing: Listing | None
    """the whole list, with its first question"""
    question: str | None = None
    """None where the list is shorter"""
    question_key: str = ""
    reply: answers.Reply | None = None


def dialogues(chunks: Iterable[Chunk], settings: Interview) -> Iterator[Dialogue[Outcome]]:
    """Every interview, passage by passage."""
    return (interview(chunk, number, settings) for chunk in chunks for number in range(settings.count))


def interview(chunk: Chunk, number: int, settings: Interview) -> Dialogue[Outcome]:
    """Ask for questions about a passage, and for the answer to the one with this number (from 0)."""
    wanted = settings.prompts.ask_questions(chunk, settings.count)
    written = yield Request(wanted, settings.questions)
    found = listed(written.text, settings.count)
    listing = None if number else found
    if number >= len(found.questions):
        return Outcome(listing)
    question = found.questions[number]
    request = Request(settings.prompts.ask_answer(chunk, question), settings.answers)
    reply = yield from answers.ask(request, chunk.text, settings.policies)
    return Outcome(listing, question, written.key, reply)


@dataclass
class Tally:
    """What is counted, interview by interview, in any order."""

    questions: Counter[str] = field(default_factory=Counter)
    judged: Counter[tuple[str, answers.Fate]] = field(default_factory=Counter)
    """fault (or `good`) of every answer, and what became of it"""

    def add(self, outcome: Outcome) -> None:
        """Count an interview."""
        if found := outcome.listing:
            self.questions.update(
                not_a_question=found.not_questions,
                repeated=found.repeated,
                surplus=found.surplus,
                chunks_without=not found.questions,
            )
        if outcome.reply:
            self.questions["asked"] += 1
            self.judged.update(outcome.reply.judged)

    def figures(self) -> dict[str, int]:
        """Questions asked, lines that were none or one too many, and equals in other passages."""
        names = ("asked", "not_a_question", "repeated", "surplus", "chunks_without", "duplicates")
        return {name: self.questions[name] for name in names}


def line(chunk: int, outcome: Outcome) -> bytes | None:
    """What is kept of an interview until all are done; None without an answer that can be used.

    chunk: the passage's place.
    """
    reply = outcome.reply
    if reply is None or reply.text is None:
        return None
    return orjson.dumps(
        [chunk, outcome.question, reply.text, outcome.question_key, reply.answer.key, reply.repaired]
    )


def distinct(
    lines: Iterable[bytes], chunks: Sequence[Chunk], held: frozenset[str], questions: Counter[str]
) -> Iterator[Pair]:
    """The pairs of these lines, each question once; counts those left out as `duplicates`."""
    seen: set[bytes] = set()
    for kept in lines:
        place, question, text, question_key, answer_key, repaired = orjson.loads(kept)
        chunk = chunks[place]
        same = bytes.fromhex(sha256(sameness(question)))[:16]
        if same in seen:
            questions["duplicates"] += 1
            continue
        seen.add(same)
        side: Side = "eval" if chunk.document in held else "train"
        keys = question_key, answer_key
        yield Pair(pair_id(chunk, question), side, chunk, question, text, *keys, tuple(repaired))
