"""Answers judged by another model: what it is asked, and how its verdict is read.

record, sample ──▶ Judged.verdict, a dialogue with the judge ──▶ the sample with its verdict

A verdict is one word of those that were asked for, and nothing else: `YES, because …` is none, and is counted
as such. Requests go through the teacher's client, cache and limits: see `stillroom.stages.evaluate`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from stillroom.artifacts import sha256
from stillroom.benchmarks.base import Questions, Sample
from stillroom.errors import ParamsError
from stillroom.params import Endpoint, Extra, LimitField, Sampling, Settings, Teacher
from stillroom.records import Conversation, Message
from stillroom.teacher.prompts import PLACEHOLDER, filled
from stillroom.teacher.requests import Answer, Dialogue, Request

ANSWERS, REQUESTS = "judge-answers.parquet", "judge-requests.jsonl"
"""of a judged item's folder: the cache rows of what the judge said; {id, keys}, which of them are whose"""
AROUND = " \t\n\r.*_`'\"()[]"
"""marks that may stand around a verdict"""
SHOWN = 80
"""characters of an invalid verdict that a sample's note quotes"""


class Judge(Settings):
    """A model that judges; a subclass has the built-in words and says what they are about."""

    words: ClassVar[str]
    """the built-in prompt"""
    placeholders: ClassVar[frozenset[str]]
    """all of them must stand in a prompt"""

    model: str
    """name sent to `endpoint.judge`, or else to the teacher's endpoint"""
    id: str | None = None
    """name in the response cache; null: the model's"""
    max_tokens: Annotated[int, Field(ge=1)] = 16
    """most tokens of a verdict; a model that reasons first needs hundreds"""
    limit_field: LimitField = "max_tokens"
    """what the endpoint calls max_tokens; OpenAI's reasoning models: max_completion_tokens"""
    extra: Extra = {}
    """further fields of a request, e.g. {reasoning_effort: low}; null leaves one of ours out"""
    prompt: str | None = None
    """the words that ask; null: built in. Other words are other requests: all is judged anew"""

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.model == "embedded":
            raise ValueError("the embedded teacher is no judge: name a model behind an endpoint")
        found = {match[1] or match[0] for match in PLACEHOLDER.finditer(self.template)} - {"{{", "}}"}
        if unknown := sorted(found - self.placeholders):
            raise ValueError(f"prompt: unknown placeholder {unknown[0]!r}; a brace that is meant is doubled")
        if missing := sorted(self.placeholders - found):
            raise ValueError(f"prompt: the placeholder {{{missing[0]}}} is missing")
        return self

    @property
    def template(self) -> str:
        """The prompt in force."""
        return self.words if self.prompt is None else self.prompt

    @property
    def prompt_sha256(self) -> str:
        """What tells prompts apart."""
        return sha256(self.template)

    @property
    def teacher(self) -> Teacher:
        """The judge as the client knows it."""
        return Teacher(model=self.model, id=self.id, limit_field=self.limit_field, extra=self.extra)

    def request(self, *, first_tokens: int | None = None, **values: str) -> Request:
        """Ask, at temperature 0."""
        sampling = Sampling(
            max_tokens=self.max_tokens, temperature=0, top_p=1, top_k=None, repetition_penalty=None
        )
        asked = (Message("user", filled(self.template, **values)),)
        return Request(asked, sampling, first_tokens=first_tokens)


class Judged(Questions):
    """A benchmark whose answers a judge is asked about."""

    needs_judge: ClassVar[bool] = False
    """whether there is nothing to score without one"""
    judge: Judge | None = None

    @abstractmethod
    def verdict(self, record: Conversation, sample: Sample, seed: int) -> Dialogue[Sample]:
        """Ask about one scored sample; return it with what the judge said."""

    def verdicts(self, data: Path, samples: Iterable[Sample], seed: int) -> Iterator[Dialogue[Sample]]:
        """A dialogue for each sample; those that hold no answer to judge ask nothing."""
        records = {record.id: record for record in self.records(data)}
        for sample in samples:
            scored = sample.status == "scored"
            yield self.verdict(records[self.record_of(sample.id)], sample, seed) if scored else _as_is(sample)

    def record_of(self, id: str) -> str:
        """The id of the record that the sample of that id is of."""
        return id

    def imagined(self, data: Path, seed: int, mark: str) -> list[Sample]:
        """What the judge would get of answers as long as the right ones: for an estimate of what it costs.

        mark: stands in every answer.
        """
        found = []
        for record in self.asked(data, seed):
            if gold := self.gold(record):
                output = mark + gold[0]
                scores = self.score(record, output, gold)
                found.append(Sample(record.id, self.group(record), "", output, gold, scores))
        return found

    def ready(self, endpoint: Endpoint) -> None:
        """Raise ParamsError where a judge is needed and not set, or set and nowhere to be asked."""
        where = f"params.yaml: evaluate.{self.name}.judge"
        if self.judge is None and self.needs_judge:
            hint = (
                f"set evaluate.{self.name}.judge.model, and endpoint.judge.base_url for where it is asked, "
                f"or take {self.name} out of evaluate.benchmarks"
            )
            raise ParamsError("this benchmark needs a judge", where=where, hint=hint)
        if self.judge is not None and endpoint.of_judges().base_url is None:
            hint = "set endpoint.judge.base_url, or endpoint.base_url where the teacher's serves it too"
            raise ParamsError(f"no address for the judge {self.judge.model!r}", where=where, hint=hint)


def _as_is(sample: Sample) -> Dialogue[Sample]:
    """A dialogue without a word."""
    return sample
    yield


def with_keys(dialogue: Dialogue[Sample]) -> Dialogue[tuple[Sample, list[str]]]:
    """The same dialogue, which also returns the keys of the answers that it was given."""
    keys: list[str] = []
    try:
        request = next(dialogue)
        while True:
            answer = yield request
            keys.append(answer.key)
            request = dialogue.send(answer)
    except StopIteration as end:
        return end.value, keys


def word(text: str, words: Sequence[str]) -> str | None:
    """The one of these words that a text consists of, whatever its case; None where it says anything else.

    >>> word("**Yes**.", ("YES", "NO")), word("YES and NO", ("YES", "NO"))
    ('YES', None)
    """
    alone = text.strip(AROUND).upper()
    return next((each for each in words if each.upper() == alone), None)


def said(answer: Answer, words: Sequence[str]) -> str | None:
    """A judge's verdict; of an answer that an estimate imagines, the first word."""
    return word(answer.text, words) if answer.key else words[0]


def invalid(answer: Answer) -> str:
    """A sample's note about an answer that is no verdict."""
    text = " ".join(answer.text.split())
    shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
    return f"no verdict: the judge said {shown!r} ({answer.finish_reason})"
