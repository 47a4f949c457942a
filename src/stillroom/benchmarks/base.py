"""What a benchmark is: its settings, its samples, and the measures that are made of them.

data/benchmarks/NAME ──▶ Benchmark.run(data, subject) ──▶ samples ──▶ measures, curves ──▶ metrics

A benchmark is one file with one class, whose fields are its block of params.yaml (`evaluate.NAME`). To add
one: write the class, name it in `stillroom.benchmarks.BENCHMARKS` and as a field of
`stillroom.stages.evaluate.Params`. Tables, tests, curves, samples and page follow from what it declares
here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from stillroom.benchmarks import statistics
from stillroom.draws import rank, rng
from stillroom.errors import InputError
from stillroom.params import Sampling, Settings
from stillroom.records import Conversation, read_conversations

if TYPE_CHECKING:
    from stillroom.benchmarks.subject import Reply, Subject

Scores = dict[str, float]
Status = Literal["scored", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of reports/samples/MODEL/BENCHMARK.jsonl.

    group: samples of one group are not independent.  output: None where nothing was asked.
    status: `skipped` could not be asked of this model, `failed` could not be scored; `note` says why.
    """

    id: str
    group: str
    prompt: str
    output: str | None
    gold: Sequence[str]
    scores: Scores
    status: Status = "scored"
    note: str = ""


@dataclass(frozen=True)
class Measure:
    """A figure: f(Σ scores[key] / Σ scores[per]) over the samples with that key; without `per`, a mean.

    tasks: the plain mean of several tasks' figures, a sample's task being what its id begins with.
    """

    key: str
    name: str
    unit: str
    better: Literal["higher", "lower"]
    per: str | None = None
    exp: bool = False
    tasks: bool = False

    def numbers(self, samples: Iterable[Sample]) -> statistics.Numbers:
        """What the statistics take, of the samples that this measure is about."""
        rows = [s for s in samples if s.status == "scored" and self.key in s.scores]
        a = np.array([s.scores[self.key] for s in rows], dtype=np.float64)
        b = np.array([s.scores[self.per] if self.per else 1.0 for s in rows], dtype=np.float64)
        tasks = [s.id.partition("/")[0] for s in rows] if self.tasks else None
        return statistics.Numbers(a, b, [s.group for s in rows], self.exp, tasks)

    def estimate(self, samples: Iterable[Sample]) -> statistics.Estimate | None:
        """Value and interval, or None where no sample has the key."""
        numbers = self.numbers(samples)
        return statistics.estimate(numbers) if numbers.groups else None


@dataclass(frozen=True)
class Curve:
    """A measure against a property of the samples; `points(samples)` gives measure and samples per x."""

    name: str
    x_title: str
    y_title: str
    points: Callable[[Sequence[Sample]], dict[int, tuple[Measure, list[Sample]]]]


class Benchmark(Settings):
    """A benchmark with its settings. Class attributes are what the report says about it."""

    name: ClassVar[str]
    title: ClassVar[str]
    definition: ClassVar[str]
    """what is measured, and where it deviates from what others publish"""
    curves: ClassVar[tuple[Curve, ...]] = ()

    @abstractmethod
    def run(self, data: Path, subject: Subject) -> list[Sample]:
        """Examine the subject on the benchmark's folder, samples sorted by id; none where it has no data."""

    @classmethod
    @abstractmethod
    def measures(cls, samples: Sequence[Sample]) -> list[Measure]:
        """The measures that these samples allow, the headline first."""

    @classmethod
    def parts(cls, samples: Sequence[Sample]) -> dict[str, Measure]:
        """Title and measure of what stands in the tables beside the headline."""
        return {}

    @classmethod
    def about(cls, measure: Measure, samples: Sequence[Sample]) -> Sequence[Sample]:
        """The samples that one of the measures is about, whether they have a score or not."""
        return samples

    @classmethod
    def details(cls, samples: Sequence[Sample]) -> dict[str, Any]:
        """Further figures of the metrics file."""
        return {}

    def provenance(self) -> dict[str, Any]:
        """What of the label only this benchmark has."""
        return {}

    def export(self, folder: Path, data: Path, samples: Sequence[Sample], model: str) -> None:
        """Write the samples as other tools do, into an empty folder; most benchmarks write nothing."""
        return


class Drawing(Settings):
    """How answers are drawn that are not greedy."""

    temperature: Annotated[float, Field(gt=0)] = 0.7
    """above 1 flattens what the model says, below 1 sharpens it"""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """nucleus: smallest set of tokens with this probability"""
    top_k: Annotated[int | None, Field(ge=1)] = None
    """only the k likeliest tokens; null for endpoints that do not know top_k"""


class Questions(Benchmark):
    """A benchmark that asks: eval.jsonl ──▶ prompts ──▶ answers ──▶ scores."""

    limit: Annotated[int | None, Field(ge=1)] = None
    """most questions, drawn by the seed; null asks all"""
    max_tokens: Annotated[int, Field(ge=1)] = 512
    """most tokens of an answer"""
    sampling: Drawing | None = None
    """null: greedy; {temperature, top_p, top_k}: drawn, each answer by a seed of its own"""

    def records(self, data: Path) -> list[Conversation]:
        """The questions of the benchmark's folder, the last message of each the reference answer."""
        return read_set(data)

    @abstractmethod
    def gold(self, record: Conversation) -> list[str]:
        """The right answers; empty where the record has none that can be scored."""

    @abstractmethod
    def score(self, record: Conversation, output: str, gold: Sequence[str]) -> Scores:
        """Score one answer."""

    def group(self, record: Conversation) -> str:
        """Records of one group are not independent; the statistics resample them together."""
        return record.id

    def unit(self, record: Conversation) -> str:
        """What `limit` counts."""
        return self.group(record)

    def run(self, data: Path, subject: Subject) -> list[Sample]:
        """Ask every chosen question; what does not fit the model is counted as skipped."""
        return self.ask(self.asked(data, subject.seed), subject)

    def asked(self, data: Path, seed: int) -> list[Conversation]:
        """The chosen questions as they are put."""
        return self.chosen(self.records(data), seed)

    def ask(self, records: Sequence[Conversation], subject: Subject) -> list[Sample]:
        """A sample of each record."""
        asked = [record for record in records if self.gold(record)]
        if not asked:
            return [self._sample(record, subject, None) for record in records]
        prompts = [question(record) for record in asked]
        seeds = [rng(subject.seed, "answer", record.id).getrandbits(63) for record in asked]
        replies = subject.answers(prompts, self._sampling(), seeds, f"evaluate {self.name}")
        given = dict(zip((record.id for record in asked), replies, strict=True))
        return [self._sample(record, subject, given.get(record.id)) for record in records]

    def chosen(self, records: Sequence[Conversation], seed: int) -> list[Conversation]:
        """The records of `limit` units that the seed draws, sorted by id."""
        units = sorted({self.unit(r) for r in records}, key=lambda unit: rank(seed, unit))
        kept = set(units[: self.limit])
        return sorted((r for r in records if self.unit(r) in kept), key=lambda r: r.id)

    def _sampling(self) -> Sampling:
        """Greedy, unless `sampling` says otherwise."""
        greedy = {"temperature": 0, "top_p": 1.0, "top_k": None}
        drawn = self.sampling.model_dump() if self.sampling else greedy
        return Sampling(max_tokens=self.max_tokens, repetition_penalty=None, **drawn)

    def _sample(self, record: Conversation, subject: Subject, reply: Reply | None) -> Sample:
        """The sample of a record; no reply where it has no gold answer."""
        gold, prompt = self.gold(record), subject.prompt(question(record))
        if reply is None:
            note = "no gold answer that can be scored"
            return Sample(record.id, self.group(record), prompt, None, (), {}, "failed", note)
        if reply.text is None:
            status: Status = "failed" if reply.failed else "skipped"
            return Sample(record.id, self.group(record), prompt, None, gold, {}, status, reply.note)
        scores = self.score(record, reply.text, gold) | {"cut": float(reply.finish_reason == "length")}
        return Sample(record.id, self.group(record), prompt, reply.text, gold, scores)


def read_set(data: Path) -> list[Conversation]:
    """The records of a folder's eval.jsonl; none where the recipe has no source for it.

    Raises InputError where the folder is absent or a record is malformed.
    """
    if not data.is_dir():
        raise InputError("no such folder", where=str(data), hint="run the stage that makes it first")
    file = data / "eval.jsonl"
    return list(read_conversations(file)) if file.exists() else []


def question(record: Conversation) -> Sequence[Any]:
    """The messages up to the last one, which is the reference answer."""
    if record.messages[-1].role == "assistant":
        return record.messages[:-1]
    return record.messages


def meta(record: Conversation, key: str, kind: type | tuple[type, ...]) -> Any:
    """A required value of a record's meta. Raises InputError naming the record."""
    value = record.meta.get(key)
    if not isinstance(value, kind):
        raise InputError(f"`meta.{key}` is missing or of the wrong type", where=f"record {record.id!r}")
    return value


def mean(samples: Iterable[Sample], key: str) -> float | None:
    """Plain mean of a score over the samples that have it."""
    values = [s.scores[key] for s in samples if s.status == "scored" and key in s.scores]
    return sum(values) / len(values) if values else None
