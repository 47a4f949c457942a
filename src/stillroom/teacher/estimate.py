"""What a stage will ask and what that costs, before anything is asked: no network, no teacher.

a stage's dialogues, response cache, price table ──▶ Estimate: requests, tokens and money, low and high

    stillroom plan --cost

    of_stage       the teacher, by distill and raft
    of_item        a model at an endpoint and a judge, by one item of evaluate
    of_training    a fine-tuning service, by train

The stage's own dialogues are driven through the response cache. What it misses is bought in two imagined
runs: in the low one answers are short, in the high one long; every answer stands in the prompts after it.
What is short and long, and how many tokens a prompt has, is read off the teacher's answers in the cache, or
else assumed; `Estimate.basis` says which.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import orjson

from stillroom import chat_format, params
from stillroom.endpoint_model import find
from stillroom.errors import InputError, ModelError
from stillroom.params import Endpoint, LimitField, Price, Teacher
from stillroom.progress import Tracker, track
from stillroom.teacher import prices, snapshot
from stillroom.teacher.cache import Cache
from stillroom.teacher.cache_file import TEACHER, opened
from stillroom.teacher.prices import MILLION
from stillroom.teacher.requests import Answer, Dialogue, Query, Request, answer, asking, identity, query

if TYPE_CHECKING:
    from stillroom.stages import evaluate

INPUTS = {"distill": "conversations", "raft": "documents"}
"""the stages that ask a teacher, and the path in their `Paths` that their dialogues are made of"""
EXAMINED = "evaluate"
"""the stage whose items may ask a judge, and a model at an endpoint"""
TRAINED = "train"
"""the stage that may have a service train"""
ENOUGH = 30
"""answers under the same settings, from which lengths are read off"""
SHORT, LONG = 0.25, 1.0
"""of max_tokens: short and long answers, where there are not enough to tell"""
LIGHT, DENSE = 1 / 4, 1 / 3
"""tokens per byte of a prompt, where there are not enough answers to tell"""
MARGIN = 0.05
"""by which prompts to come may differ from those before, in tokens per byte"""
QUESTIONS = {"low": 1, "high": 64}
"""most questions in an imagined answer, for a stage that asks for some"""
MARK = "\ue000"
"""in every imagined answer: a prompt that holds it is not in the cache"""
CUT = ("length", "max_tokens", "content_filter")
"""finish reasons after which a conversation does not go on"""
FREE = Price(prompt=0, completion=0)
"""of the embedded teacher, which this machine serves"""
WINDOW = 4096
"""dialogues that are looked up together"""

DRAWN = {"temperature": "DOUBLE", "top_p": "DOUBLE", "top_k": "INTEGER", "repetition_penalty": "DOUBLE"}
"""settings of an answer's length beside max_tokens, and their types"""

Side: TypeAlias = Literal["low", "high"]
Settings: TypeAlias = tuple[Any, ...]
"""max_tokens, temperature, top_p, top_k, repetition_penalty; None of what is not sent"""
Open: TypeAlias = tuple[Dialogue[Any], Request, float]
"""a dialogue, what it wants to know, and how likely it comes to that"""


@dataclass(frozen=True, slots=True)
class Range:
    """Two ends; the truth is likely in between."""

    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """What a stage is going to ask."""

    dialogues: int
    """conversations, or questions about passages"""
    cached: int
    """answers that are there"""
    requests: Range
    """answers that are missing"""
    prompt_tokens: Range
    completion_tokens: Range
    cost: Range | None
    """in the price table's currency; None without a price"""
    basis: list[str]
    """what low and high rest on"""


NOTHING = Estimate(0, 0, Range(0, 0), Range(0, 0), Range(0, 0), Range(0, 0), [])
"""of a stage that asks nobody"""


@dataclass(frozen=True, slots=True)
class Observed:
    """A teacher's answers under the same settings."""

    answers: int
    short: float
    """tokens: the 10th percentile, or the mean where that is less"""
    long: float
    """tokens: the 90th percentile, or the mean where that is more"""
    whole: float
    """share of answers after which a conversation may go on"""
    prompt_tokens: int
    prompt_bytes: int
    completion_tokens: int
    completion_bytes: int

    @property
    def least_whole(self) -> float:
        """The least that the share of all answers may be, given `whole`: Wilson's bound at two sigma."""
        share, n = self.whole, self.answers
        return (share + 2 / n - 2 * math.sqrt((share * (1 - share) + 1 / n) / n)) / (1 + 4 / n)


@dataclass
class Bill:
    """What an imagined run buys."""

    requests: float = 0.0
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    cached: int = 0
    bought: set[int] = field(default_factory=set)
    """the first 8 bytes of keys: the same request is bought once"""

    def add(self, share: float, prompt_tokens: float, completion_tokens: float) -> None:
        """Buy a request, or the share of it that it is likely to come to."""
        self.requests += share
        self.prompt_tokens += share * prompt_tokens
        self.completion_tokens += share * completion_tokens

    def buys(self, key: str) -> bool:
        """Whether the request has not been bought before."""
        number = int(key[:16], 16)
        new = number not in self.bought
        self.bought.add(number)
        return new


def of_stage(name: str) -> Estimate:
    """What a stage asks with the params in force and the inputs that are there.

    Raises InputError where an input is absent or malformed, ParamsError for max_cost without a price.
    """
    stage = importlib.import_module(f"stillroom.stages.{name}")
    paths, settings = stage.Paths(), params.load(name, stage.Params)
    if settings.answers == "original":
        return NOTHING
    cache = Cache()
    snapshot.restore(paths.answers, cache)
    dialogues = stage.dialogues(getattr(paths, INPUTS[name]), settings)
    return _asked(name, dialogues, settings.teacher, paths.teacher, settings.endpoint, settings, cache)


def items() -> list[tuple[str, str]]:
    """The items of `evaluate` that ask somebody: (model, benchmark).

    Raises ParamsError where a judge is nowhere to be asked.
    """
    from stillroom.stages import evaluate, train

    settings, training = params.load(EXAMINED, evaluate.Params), params.load(TRAINED, train.Params)
    judged = {name for name in settings.benchmarks if evaluate.asking(name, settings)}

    def remote(model: str) -> bool:
        folder = evaluate.Paths(model, "").folder
        return bool(find(folder)) or (training.backend == "api" and not folder.is_dir())

    away = {model for model in settings.models if remote(model)}
    return [(m, b) for m in settings.models for b in settings.benchmarks if m in away or b in judged]


def of_item(model: str, benchmark: str) -> Estimate:
    """What an item of `evaluate` asks: the model, where it answers at an endpoint, and a judge.

    Raises InputError for a model that is yet to be trained at a service; else as `of_stage`.
    """
    from stillroom.stages import evaluate

    paths, settings = evaluate.Paths(model, benchmark), params.load(EXAMINED, evaluate.Params)
    return _both(_of_model(paths, settings), _of_judge(paths, settings))


def of_training() -> Estimate:
    """What a fine-tuning service takes for a job; nothing where this machine trains.

    Raises InputError where the mixture is not there yet.
    """
    from stillroom.remote.examples import tokens
    from stillroom.stages import train

    paths, settings = train.Paths(), params.load(TRAINED, train.Params)
    if settings.backend != "api":
        return NOTHING
    records, (low, high) = tokens(paths.mixture / "train.jsonl")
    epochs, price = settings.api.n_epochs, settings.api.price
    size = Range(low * (epochs or 1), high * (epochs or 1))
    money = None
    if price is not None and epochs is not None:
        money = Range(size.low * price / MILLION, size.high * price / MILLION)
    passes = f"{epochs} epochs of" if epochs else "one epoch, of those that the service chooses, of"
    basis = [f"a job: {passes} {records:,} records, at {LIGHT:.2f} to {DENSE:.2f} tokens per byte, assumed"]
    return Estimate(records, 0, Range(1, 1), size, Range(0, 0), money, basis)


def _both(one: Estimate, other: Estimate) -> Estimate:
    """Two estimates as one; without a price where either that asks has none."""
    if not (one.dialogues and other.dialogues):
        return one if one.dialogues or not other.dialogues else other

    def sums(a: Range, b: Range) -> Range:
        return Range(a.low + b.low, a.high + b.high)

    return Estimate(
        one.dialogues + other.dialogues,
        one.cached + other.cached,
        sums(one.requests, other.requests),
        sums(one.prompt_tokens, other.prompt_tokens),
        sums(one.completion_tokens, other.completion_tokens),
        sums(one.cost, other.cost) if one.cost and other.cost else None,
        [f"model: {line}" for line in one.basis] + [f"judge: {line}" for line in other.basis],
    )


def _of_model(paths: evaluate.Paths, settings: evaluate.Params) -> Estimate:
    """What is asked of a model at an endpoint; nothing of one with weights, nor where they are needed."""
    from stillroom.benchmarks.at_endpoint import MODEL_ANSWERS, Listener
    from stillroom.benchmarks.base import Questions
    from stillroom.benchmarks.leaderboard import Leaderboard

    found = find(paths.folder)
    if found is None:
        training = importlib.import_module("stillroom.stages.train")
        if not paths.folder.is_dir() and params.load(TRAINED, training.Params).backend == "api":
            raise InputError("no such model folder", where=str(paths.folder), hint="run convert first")
        return NOTHING
    benchmark = getattr(settings, paths.benchmark)
    if not isinstance(benchmark, Questions | Leaderboard):
        return replace(NOTHING, basis=[f"what {paths.benchmark} asks of an endpoint is not counted"])
    chat, before = chat_format.get(settings.chat_format), paths.files / MODEL_ANSWERS
    room, seed = settings.batch_tokens, settings.seed
    listener = Listener(paths.folder, chat, room, seed, found, settings.endpoint, before)
    try:
        benchmark.run(paths.data, listener)
    except ModelError:
        return NOTHING
    cache = Cache()
    snapshot.restore(before, cache)
    title = f"{EXAMINED} {paths.model} {paths.benchmark}"

    def dialogues() -> Iterator[Dialogue[Answer]]:
        return map(asking, listener.requests)

    reached = found.reached(settings.endpoint)
    return _asked(title, dialogues, found.teacher, paths.folder, reached, settings, cache)


def _of_judge(paths: evaluate.Paths, settings: evaluate.Params) -> Estimate:
    """What an item asks its judge. The model's answers are not known: none of it is cached.

    Raises ParamsError where the judge is nowhere to be asked.
    """
    from stillroom.stages import evaluate as stage

    model, benchmark = paths.model, paths.benchmark
    judging = stage.asking(benchmark, settings)
    if judging is None or judging.judge is None:
        return NOTHING
    judge, endpoint = judging.judge.teacher, settings.endpoint.of_judges()
    samples = judging.imagined(paths.data, settings.seed, MARK)
    dialogues = functools.partial(judging.verdicts, paths.data, samples, settings.seed)
    title = f"{EXAMINED} {model} {benchmark}"
    found = _asked(title, dialogues, judge, paths.folder, endpoint, settings, Cache())
    length = "the model's answers are taken to be as long as the right ones, and to be new"
    return replace(found, basis=[*found.basis, length] if found.basis else [])


def _asked(
    title: str,
    dialogues: Callable[[], Iterable[Dialogue[Any]]],
    teacher: Teacher,
    folder: Path,
    endpoint: Endpoint,
    settings: Any,
    cache: Cache,
) -> Estimate:
    """What dialogues ask of a model; `settings` has the chat format and the seed."""
    price = FREE if teacher.model == "embedded" else prices.price_of(teacher.model, endpoint)
    known_as = identity(teacher, folder)
    chat = chat_format.get(settings.chat_format)

    def asked(request: Request) -> Query:
        return query(request, teacher, known_as, chat, settings.seed)

    imagined = Imagination(observations(cache.path, known_as), teacher.extra)
    with cache, track(f"{title}: estimate", None, "dialogues") as tracker:
        count, low, high = bills(dialogues, cache, asked, imagined, tracker)
    batch = endpoint.backend == "batch"
    return _estimate(count, low, high, price, imagined.basis(), batch=batch)


def bills(
    dialogues: Callable[[], Iterable[Dialogue[Any]]],
    cache: Cache,
    asked: Callable[[Request], Query],
    imagined: Imagination,
    tracker: Tracker,
) -> tuple[int, Bill, Bill]:
    """The number of dialogues, and what the low and the high run buy."""
    low, high = Bill(), Bill()
    pairs = zip(dialogues(), dialogues(), strict=True)
    while window := list(islice(pairs, WINDOW)):
        known: dict[str, Answer] = {}
        _run([pair[0] for pair in window], low, "low", cache, asked, imagined, known)
        _run([pair[1] for pair in window], high, "high", cache, asked, imagined, known)
        tracker.advance(len(window))
    return tracker.done, low, high


def _run(
    window: Iterable[Dialogue[Any]],
    bill: Bill,
    side: Side,
    cache: Cache,
    asked: Callable[[Request], Query],
    imagined: Imagination,
    known: dict[str, Answer],
) -> None:
    """Drive dialogues to their ends, wave by wave: by the cache's answers, else by imagined ones.

    known: answers of the cache that were looked up for this window.
    """
    wave = [item for dialogue in window for item in _advanced(dialogue, None, 1.0)]
    while wave:
        queries = [None if _depends(request) else asked(request) for _, request, _ in wave]
        wanted = {q.key for q in queries if q and q.key not in known and q.key in cache}
        known |= {key: answer(row, cached=True) for key, row in cache.find_many(wanted).items()}
        current, wave = wave, []
        for (dialogue, request, chance), found in zip(current, queries, strict=True):
            new = found is None or bill.buys(found.key)
            if found and (given := known.get(found.key)):
                bill.cached += new
            else:
                given = imagined.answer(request, side)
                if new:
                    bill.add(chance, imagined.prompt_tokens(request, side), given.completion_tokens)
                chance *= imagined.whole(request, side)
            wave += _advanced(dialogue, given, chance)


def _advanced(dialogue: Dialogue[Any], given: Answer | None, chance: float) -> list[Open]:
    """Send an answer into a dialogue (None starts it): what it asks next, if anything."""
    try:
        return [(dialogue, dialogue.send(given), chance)]  # type: ignore[arg-type]  # None starts a generator
    except StopIteration:
        return []


def _depends(request: Request) -> bool:
    """Whether an imagined answer is part of the prompt."""
    return any(MARK in message.content for message in request.messages)


class Imagination:
    """Makes up answers of a teacher that has given others, or none."""

    def __init__(self, observed: dict[Settings, Observed], extra: Mapping[str, Any]) -> None:
        self._extra = extra
        self._observed = {key: seen for key, seen in observed.items() if seen.answers >= ENOUGH}
        self._all = sum(seen.answers for seen in self._observed.values())
        tokens = sum(seen.prompt_tokens for seen in self._observed.values())
        size = sum(seen.prompt_bytes for seen in self._observed.values())
        seen = Range(tokens / size * (1 - MARGIN), tokens / size * (1 + MARGIN)) if size else None
        self._per_byte = seen or Range(LIGHT, DENSE)
        self._used: set[Settings] = set()
        self._weighed = False
        self._number = 0

    def answer(self, request: Request, side: Side) -> Answer:
        """An answer that a dialogue can go on from: questions, then filling."""
        tokens = self._length(request, side)
        self._number += 1
        template = _template(round(tokens * self._bytes_per_token(request, side)), QUESTIONS[side])
        text = template.replace("#", str(self._number))
        return Answer("", text, "stop", 0, round(tokens), False)

    def prompt_tokens(self, request: Request, side: Side) -> float:
        """What a prompt counts."""
        if request.tokens is not None:
            return len(request.tokens)
        self._weighed = True
        return len(orjson.dumps(request.messages)) * _end(self._per_byte, side)

    def whole(self, request: Request, side: Side) -> float:
        """The share of answers after which a dialogue goes on; in the high run all."""
        seen = self._observed.get(self._settings(request))
        return seen.least_whole if seen and side == "low" else 1.0

    def basis(self) -> list[str]:
        """What low and high rest on, in words."""
        lines = [self._lengths(settings) for settings in sorted(self._used, key=str)]
        ratio = self._per_byte
        if not self._weighed:
            lines.append("prompts are sent as tokens, and counted")
        elif self._all:
            mean = (ratio.low + ratio.high) / 2
            lines.append(f"{mean:.2f} tokens per byte of a prompt, ± {MARGIN:.0%}: {self._all:,} answers")
        else:
            lines.append(f"{ratio.low:.2f} to {ratio.high:.2f} tokens per byte of a prompt, assumed")
        return [*lines, "repeated requests (time-outs, policies that retry) are not counted"]

    def _lengths(self, settings: Settings) -> str:
        most = f"max_tokens {settings[0]:,}"
        if not (seen := self._observed.get(settings)):
            return (
                f"answers of {SHORT:.0%} to {LONG:.0%} of {most}, assumed: "
                f"the cache holds fewer than {ENOUGH} of this teacher with these settings"
            )
        ended = 1 - seen.least_whole
        cut = f"; in low {ended:.1%} of them are cut and end a conversation" if ended >= 0.001 else ""
        return (
            f"answers of {seen.short:,.0f} to {seen.long:,.0f} tokens, 10th and 90th percentile of "
            f"{seen.answers:,} with {most}{cut}"
        )

    def _length(self, request: Request, side: Side) -> float:
        """Tokens of an answer."""
        if request.scored is not None:
            return request.sampling.max_tokens
        self._used.add(settings := self._settings(request))
        seen, most = self._observed.get(settings), request.sampling.max_tokens
        return _end(Range(seen.short, seen.long) if seen else Range(SHORT * most, LONG * most), side)

    def _bytes_per_token(self, request: Request, side: Side) -> float:
        """Of an answer."""
        if seen := self._observed.get(self._settings(request)):
            return seen.completion_bytes / seen.completion_tokens
        return 1 / _end(self._per_byte, side)

    def _settings(self, request: Request) -> Settings:
        """What answers must share to be comparable in length."""
        drawn = (self._extra.get(name, getattr(request.sampling, name)) for name in DRAWN)
        return request.sampling.max_tokens, *drawn


def _end(range: Range, side: Side) -> float:
    return range.low if side == "low" else range.high


@functools.lru_cache(maxsize=64)
def _template(size: int, questions: int) -> str:
    """About `size` bytes of JSON: as many questions as fit, at least one, and filling; # for a number."""
    line = len(f"{MARK}# of 00?\\n".encode())
    count = max(1, min(questions, size // line))
    filling = "x" * (size - count * line)
    return "\n".join([f"{MARK}# of {n:02}?" for n in range(count)] + [filling] * bool(filling))


def observations(path: Path, known_as: str) -> dict[Settings, Observed]:
    """What a teacher's answers in a cache file tell, for each set of settings."""
    names = ", ".join(("max_tokens", *DRAWN))
    limit = ", ".join(f"request->>'$.body.{field}'" for field in get_args(LimitField))
    drawn = "".join(f", (request->>'$.body.{name}')::{type} AS {name}" for name, type in DRAWN.items())
    found = f"""
        SELECT {names}, count(*),
            least(quantile_cont(completion_tokens, 0.1), avg(completion_tokens)),
            greatest(quantile_cont(completion_tokens, 0.9), avg(completion_tokens)),
            avg((finish_reason NOT IN {CUT})::INTEGER),
            sum(prompt_tokens)::BIGINT, sum(size)::BIGINT,
            sum(completion_tokens)::BIGINT, sum(strlen(text))::BIGINT
        FROM (
            SELECT *, coalesce({limit})::INTEGER AS max_tokens{drawn},
                strlen(coalesce(request->'$.body.messages', request->'$.body.prompt')) AS size
            FROM responses WHERE {TEACHER} = ? AND prompt_tokens > 0 AND completion_tokens > 0
                AND json_type(request, '$.body.prompt') IS DISTINCT FROM 'ARRAY'
        )
        GROUP BY {names}
    """
    with opened(path) as connection:
        rows = connection.execute(found, [known_as]).fetchall()
    return {row[:5]: Observed(*row[5:]) for row in rows}


def _estimate(
    dialogues: int, low: Bill, high: Bill, price: Price | None, basis: list[str], *, batch: bool
) -> Estimate:
    """Two bills as one estimate."""

    def money(bill: Bill) -> float:
        return prices.cost(price, bill.prompt_tokens, bill.completion_tokens, batch=batch) if price else 0.0

    def between(name: str) -> Range:
        return Range(*(round(getattr(bill, name)) for bill in (low, high)))

    return Estimate(
        dialogues,
        low.cached,
        between("requests"),
        between("prompt_tokens"),
        between("completion_tokens"),
        Range(money(low), money(high)) if price else None,
        basis if high.requests else [],
    )
