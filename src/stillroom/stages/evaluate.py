"""One model on one benchmark.

models/MODEL, data/benchmarks/BENCHMARK ──▶ evaluate ──▶ samples, label, metrics, and a folder of more files

    stillroom evaluate tuned mqa

A benchmark may have its answers judged by another model, which is asked as a teacher is: through the response
cache, within `endpoint`'s limits and cap; so is a model that answers at an endpoint. The folder holds a
snapshot of what either said, and the samples as other tools write them; for most benchmarks it is empty.

What is found goes to a work folder at once, so that an evaluation that was killed goes on where it was: an
answer of weights with its batch, a book's perplexity with its length, an endpoint's answer in the cache.

Only the block of that benchmark is used. The label says what a figure was made of: hashes of the model, of
the benchmark's files and of this code, the settings, the versions of this package and of the libraries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

import stillroom
from stillroom import chat_format, checkout, endpoint_model
from stillroom.artifacts import atomic_directory, canonical_json, sha256, write_json, write_jsonl
from stillroom.benchmarks import BENCHMARKS
from stillroom.benchmarks.alpaca_eval import AlpacaEval
from stillroom.benchmarks.at_endpoint import MODEL_ANSWERS, AtEndpoint
from stillroom.benchmarks.base import Benchmark, Measure, Sample
from stillroom.benchmarks.booksum import BookSum
from stillroom.benchmarks.findings import Findings, kept
from stillroom.benchmarks.judge import ANSWERS, REQUESTS, Judged, with_keys
from stillroom.benchmarks.leaderboard import Leaderboard
from stillroom.benchmarks.longeval import LongEval
from stillroom.benchmarks.mqa import Mqa
from stillroom.benchmarks.pg19 import Pg19
from stillroom.benchmarks.raft import Raft
from stillroom.benchmarks.subject import Subject
from stillroom.chat_format import ChatFormat
from stillroom.errors import InputError, ParamsError
from stillroom.inference import adapter
from stillroom.params import Block, Endpoint
from stillroom.teacher import snapshot
from stillroom.teacher.cache import Cache
from stillroom.teacher.client import Asker
from stillroom.teacher.requests import Dialogue

DIGITS = 6
"""of the figures: more would only show how sums were ordered"""
LIBRARIES = ("torch", "transformers", "tokenizers", "peft")
"""which compute answers"""


class Params(Block):
    """What is examined, and how."""

    common_keys = ("seed", "chat_format")
    shared_blocks = ("endpoint",)

    seed: int
    chat_format: str
    endpoint: Endpoint = Endpoint()
    """how a judge is reached, and a model that answers at an endpoint"""
    models: list[str] = ["base", "tuned"]
    """folders under models/"""
    benchmarks: list[Literal["pg19", "booksum", "mqa", "longeval", "alpaca_eval", "raft", "leaderboard"]] = [
        "pg19",
        "booksum",
        "mqa",
        "raft",
    ]
    """of pg19, booksum, mqa, longeval, alpaca_eval (needs a judge), raft, leaderboard (needs an extra)"""
    batch_tokens: Annotated[int, Field(ge=1)] = 65536
    """most tokens of a batch, prompts and answers together"""
    pg19: Pg19 = Pg19()
    """perplexity over books"""
    booksum: BookSum = BookSum()
    """chapter summaries"""
    mqa: Mqa = Mqa()
    """questions over many documents"""
    longeval: LongEval = LongEval()
    """a line of a list, a key of a JSON object"""
    alpaca_eval: AlpacaEval = AlpacaEval()
    """instructions, answered against a reference"""
    raft: Raft = Raft()
    """questions about the user's own documents"""
    leaderboard: Leaderboard = Leaderboard()
    """six tasks by lm-evaluation-harness"""


@dataclass(frozen=True)
class Paths:
    """Inputs and outputs of one item of dvc.yaml's matrix."""

    model: str
    benchmark: str

    work: Path = Path(".stillroom/work")

    @property
    def folder(self) -> Path:
        """The model."""
        return Path("models", self.model)

    @property
    def data(self) -> Path:
        """The benchmark's files."""
        return Path("data/benchmarks", self.benchmark)

    @property
    def samples(self) -> Path:
        """A line per sample."""
        return Path("reports/samples", self.model, f"{self.benchmark}.jsonl")

    @property
    def label(self) -> Path:
        """What the figures were made of."""
        return Path("reports/samples", self.model, f"{self.benchmark}.label.json")

    @property
    def files(self) -> Path:
        """The judge's answers, and the samples as other tools write them."""
        return Path("reports/samples", self.model, self.benchmark)

    @property
    def metrics(self) -> Path:
        """The figures."""
        return Path("reports/metrics/evaluate", self.model, f"{self.benchmark}.json")


def run(paths: Paths, params: Params) -> None:
    """Examine one model on one benchmark.

    Raises ParamsError for a benchmark that is not known or lacks its judge, EndpointError where the judge
    cannot be asked; what it has said stays in the response cache.
    """
    if paths.benchmark not in BENCHMARKS:
        known = ", ".join(BENCHMARKS)
        raise ParamsError(f"no benchmark {paths.benchmark!r}", where="evaluate", hint=f"known: {known}")
    if not paths.folder.is_dir():
        raise InputError("no such model folder", where=str(paths.folder), hint="run convert or models first")
    benchmark: Benchmark = getattr(params, paths.benchmark)
    judging = asking(paths.benchmark, params)
    chat = chat_format.get(params.chat_format)
    made_of = label(paths, benchmark, params)
    with kept(paths.work / f"evaluate-{identity(paths, made_of, params)[:16]}") as findings:
        subject = examined(paths, params, chat, findings)
        samples = sorted(benchmark.run(paths.data, subject), key=lambda s: s.id)
        with atomic_directory(paths.files) as files:
            subject.keep(files, samples)
            if judging and samples:
                samples = judged(judging, samples, paths, params, files)
            if samples:
                benchmark.export(files, paths.data, samples, paths.model)
        write_jsonl(paths.samples, samples)
        write_json(paths.label, made_of)
        write_json(paths.metrics, metrics(benchmark, samples))


def examined(paths: Paths, params: Params, chat: ChatFormat, findings: Findings) -> Subject:
    """The model: its weights, or the endpoint where it answers."""
    given = (paths.folder, chat, params.batch_tokens, params.seed)
    model = endpoint_model.find(paths.folder)
    if model is None:
        return Subject(*given, findings=findings)
    return AtEndpoint(*given, model, params.endpoint, paths.files / MODEL_ANSWERS, findings=findings)


def judged(
    benchmark: Judged, samples: Sequence[Sample], paths: Paths, params: Params, files: Path
) -> list[Sample]:
    """Have the judge say what it makes of every sample; write its answers, and which of them are whose.

    files: the folder for both.
    """
    assert benchmark.judge is not None
    found: dict[int, tuple[Sample, list[str]]] = {}
    chat = chat_format.get(params.chat_format)
    title = f"evaluate {paths.model} {benchmark.name}: judge"
    with Cache() as cache:
        snapshot.restore(paths.files / ANSWERS, cache)
        teacher, endpoint = benchmark.judge.teacher, params.endpoint.of_judges()
        with Asker(teacher, endpoint, paths.folder, chat, cache, params.seed, title) as asker:

            def verdicts() -> Iterator[Dialogue[tuple[Sample, list[str]]]]:
                return map(with_keys, benchmark.verdicts(paths.data, samples, params.seed))

            asker.run(verdicts, found.__setitem__, total=len(samples), unit="answers")
        snapshot.write(files / ANSWERS, cache, asker.used())
    ordered = [found[index] for index in range(len(samples))]
    write_jsonl(files / REQUESTS, ({"id": sample.id, "keys": keys} for sample, keys in ordered if keys))
    return [sample for sample, _ in ordered]


def asking(benchmark: str, params: Params) -> Judged | None:
    """The benchmark, where it asks a judge. Raises ParamsError where it lacks one, or its address."""
    found = getattr(params, benchmark)
    if not isinstance(found, Judged):
        return None
    found.ready(params.endpoint)
    return found if found.judge else None


def metrics(benchmark: Benchmark, samples: Sequence[Sample]) -> dict[str, Any]:
    """Headline, counts, curves and details; `n` 0 and no value where there is no data."""
    found, parts = benchmark.measures(samples), benchmark.parts(samples).values()
    headline = benchmark.about(found[0], samples) if found else samples
    figures = {
        "headline": _figure(found[0], headline) if found else {},
        **(
            {"parts": {part.key: _part(part, benchmark.about(part, samples)) for part in parts}}
            if parts
            else {}
        ),
        "n": sum(s.status == "scored" for s in headline),
        **_missed(headline, found[:1]),
        **(benchmark.details(samples) if samples else {}),
        "curves": {curve.name: _curve(curve.points(samples)) for curve in benchmark.curves},
    }
    return {key: _rounded(value) for key, value in figures.items()}


def label(paths: Paths, benchmark: Benchmark, params: Params) -> dict[str, Any]:
    """What the figures were made of; of an adapter, the model that it adapts too."""
    judge = benchmark.judge if isinstance(benchmark, Judged) else None
    base = adapter.base_of(paths.folder)
    return {
        "stillroom": stillroom.__version__,
        **({} if endpoint_model.find(paths.folder) else {"libraries": libraries()}),
        "code": checkout.code_sha256("evaluate"),
        "model": folder_sha256(paths.folder),
        **({"base_model": folder_sha256(base)} if base else {}),
        "data": folder_sha256(paths.data),
        **({"judge_prompt": judge.prompt_sha256} if judge else {}),
        **benchmark.provenance(),
        "settings": {"seed": params.seed, "chat_format": params.chat_format, **benchmark.model_dump()},
    }


def libraries() -> dict[str, str]:
    """Versions of what computes answers, without the name of their build."""
    return {name: version(name).partition("+")[0] for name in LIBRARIES}


def identity(paths: Paths, made_of: dict[str, Any], params: Params) -> str:
    """What names a run's findings: the item and all that answers depend on, but not what a judge is asked.

    In low precision they depend on the libraries, and on how batches are cut.
    """
    settings = {key: value for key, value in made_of["settings"].items() if key != "judge"}
    own = {"item": [paths.model, paths.benchmark], "judge_prompt": None, "settings": settings}
    batches = {"batch_tokens": params.batch_tokens, "versions": {name: version(name) for name in LIBRARIES}}
    return sha256(canonical_json(made_of | own | batches))


def folder_sha256(folder: Path) -> str:
    """SHA-256 over the sorted names and hashes of a folder's files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return sha256("".join(f"{f.relative_to(folder).as_posix()} {sha256(f)}\n" for f in files))


def _figure(measure: Measure, samples: Sequence[Sample]) -> dict[str, Any]:
    """A measure with its interval."""
    found = measure.estimate(samples)
    figure = asdict(found) if found else {"value": None, "low": None, "high": None}
    return {"name": measure.name, **figure, "unit": measure.unit, "better": measure.better}


def _part(measure: Measure, samples: Sequence[Sample]) -> dict[str, Any]:
    """A part's figure, with what of it has no score."""
    return _figure(measure, samples) | _missed(samples, [measure])


def _missed(samples: Sequence[Sample], measures: Sequence[Measure]) -> dict[str, int]:
    """How many samples have no score, and how many answers were cut of those that are measured."""
    measured = [s for s in samples if any(measure.key in s.scores for measure in measures)]
    return {
        "failed": sum(s.status == "failed" for s in samples),
        "skipped": sum(s.status == "skipped" for s in samples),
        "cut": sum(s.scores.get("cut", 0.0) == 1.0 for s in measured),
    }


def _curve(points: dict[int, tuple[Any, list[Sample]]]) -> dict[str, Any]:
    """x ──▶ value, interval and count."""
    found = {x: measure.estimate(samples) for x, (measure, samples) in points.items()}
    return {str(x): {"value": e.value, "low": e.low, "high": e.high, "n": e.n} for x, e in found.items() if e}


def _rounded(value: Any) -> Any:
    """Every number to DIGITS decimals, at any depth."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return round(value, DIGITS) if isinstance(value, float) else value
