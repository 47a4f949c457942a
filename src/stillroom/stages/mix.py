"""Sources by weight into one mixture.

data/interim/{distilled,booksum,mqa,raft}.jsonl, data/benchmarks ──▶ mix ──▶ mixture/{train,validation}.jsonl,
                                                                           mix-removed.jsonl

    stillroom mix

Records that hold what a benchmark tests are removed, then those that are there twice; each is listed with its
reason. The texts are read twice and never held: once by worker processes that count tokens and compare, once
to copy the chosen records. What is known of them stands in DuckDB (`mixing.catalogue`), so memory is bounded.
Validation holds whole groups (a conversation, book, question or document), unweighted.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, model_validator

from stillroom import processes, summary
from stillroom.artifacts import atomic_directory, open_input, write_json, write_jsonl
from stillroom.cleaning.likeness import Likeness
from stillroom.errors import InputError
from stillroom.mixing import decontamination, duplicates, weights
from stillroom.mixing.catalogue import Catalogue, Choice, catalogue
from stillroom.mixing.decontamination import Decontamination
from stillroom.mixing.protected import protected
from stillroom.mixing.scan import CHAT, Chunk, Scan, chunks
from stillroom.params import Block, Settings
from stillroom.progress import track

ORIGINS = ("chat", "booksum", "mqa", "raft")
"""what may be mixed; of equal records the one of the earlier origin stays"""
SMALL = 16 << 20
"""bytes of input that one process reads sooner than others would start"""
MOST_PROCESSES = 16
"""of the workers"""

Unit = Literal["tokens", "examples"]


class Weights(Settings):
    """Shares of the mixture, in any scale."""

    chat: float = Field(default=0.5, ge=0)
    """distilled conversations"""
    booksum: float = Field(default=0.25, ge=0)
    """chapter summaries"""
    mqa: float = Field(default=0.25, ge=0)
    """questions over many documents"""
    raft: float = Field(default=0.0, ge=0)
    """questions about the user's own documents"""

    @model_validator(mode="after")
    def _some(self) -> Weights:
        if not any(self.model_dump().values()):
            raise ValueError("every weight is 0")
        return self


class Most(Settings):
    """Most records of a source, before weighting, drawn by the seed; null takes all."""

    chat: int | None = Field(default=None, ge=1)
    """distilled conversations"""
    booksum: int | None = Field(default=None, ge=1)
    """chapter summaries"""
    mqa: int | None = Field(default=None, ge=1)
    """questions over many documents"""
    raft: int | None = Field(default=None, ge=1)
    """questions about the user's own documents"""


class NearDuplicates(Settings):
    """What makes two records almost the same: the runs of words of their human turns, as in `extract`."""

    threshold: float = Field(default=0.8, gt=0, le=1)
    """least Jaccard similarity of two records of different sources that removes the later source's"""
    ngram: int = Field(default=5, ge=1)
    """words of the runs whose share is that similarity"""
    permutations: int = Field(default=128, ge=1)
    """length of the MinHash signatures; more find more of the pairs close to the threshold"""

    @property
    def likeness(self) -> Likeness:
        """The comparison."""
        return Likeness(self.threshold, self.ngram, self.permutations)


class Params(Block):
    """The `mix` block of params.yaml."""

    common_keys = ("seed", "chat_format")

    seed: int = 42
    """of the held-out groups and of what is taken first"""
    chat_format: str = "inst"
    """the format in which tokens are counted"""
    weights: Weights = Weights()
    """shares of the sources"""
    chat_files: dict[str, Annotated[float, Field(ge=0)]] = {}
    """weights of the input files within chat's share, by name or glob; others weigh 1; {}: as they come"""
    weights_by: Unit = "tokens"
    """what the shares are shares of"""
    temperature: float | None = Field(default=None, gt=0)
    """null: the weights are the shares; else each is multiplied by its source's size ** (1 / temperature)"""
    total: int | None = Field(default=None, ge=1)
    """size of the mixture in that unit; null takes as much as the scarcest source allows"""
    epochs: float = Field(default=1.0, ge=1)
    """how often a source that is too small may be used whole; 2.5 is twice and half of it a third time"""
    most: Most = Most()
    """most records of each source"""
    near_duplicates: NearDuplicates | None = NearDuplicates()
    """removes what another source has almost so; null: only equal records are removed"""
    decontamination: Decontamination | None = Decontamination()
    """removes records that hold what a benchmark tests; null: none"""
    validation_share: float = Field(default=0.02, ge=0, lt=1)
    """share of each source's groups that validate (books, questions, documents, conversations)"""

    @property
    def size(self) -> str:
        """How much of the mixture a record is, in SQL."""
        return "tokens" if self.weights_by == "tokens" else "1"


@dataclass(frozen=True)
class Paths:
    """Where dvc.yaml says that things lie."""

    chat: Path = Path("data/interim/distilled.jsonl")
    booksum: Path = Path("data/interim/booksum.jsonl")
    mqa: Path = Path("data/interim/mqa.jsonl")
    raft: Path = Path("data/interim/raft.jsonl")
    benchmarks: Path = Path("data/benchmarks")
    base: Path = Path("models/base")
    mixture: Path = Path("data/processed/mixture")
    removed: Path = Path("reports/samples/mix-removed.jsonl")
    metrics: Path = Path("reports/metrics/mix.json")

    def sources(self, params: Params) -> dict[str, Path]:
        """The files of the sources with a weight, in their order."""
        given = params.weights.model_dump()
        return {origin: getattr(self, origin) for origin in ORIGINS if given[origin]}


def run(paths: Paths, params: Params) -> None:
    """Write the mixture, what was removed and the report.

    Raises InputError on a bad record, or if there is nothing to mix.
    """
    files = paths.sources(params)
    scratch = paths.mixture.with_name(".mix.partial")
    with catalogue(scratch, processes.available()) as found:
        fill(found, files, paths, params, scratch)
        plan = planned(found, files, params)
        with atomic_directory(paths.mixture) as folder:
            write_jsonl(folder / "train.jsonl", copied(found.choices("chosen", "name"), files))
            write_jsonl(folder / "validation.jsonl", copied(found.choices("validation", "id"), files))
        write_jsonl(paths.removed, removed(found))
        report = metrics(found, plan, params)
    state(report)
    write_json(paths.metrics, report)


def fill(found: Catalogue, files: dict[str, Path], paths: Paths, params: Params, scratch: Path) -> None:
    """Take every record in; remove those that a benchmark tests, duplicates, and what is over a limit."""
    settings = params.decontamination
    if settings is not None:
        decontamination.build(protected(paths.benchmarks), settings, scratch)
    full = sum(path.stat().st_size > 0 for path in files.values() if path.exists())
    likeness = params.near_duplicates.likeness if params.near_duplicates and full > 1 else None
    index = scratch if settings else None
    workers = workers_for(files)
    scan = Scan(paths.base, params.chat_format, likeness, index, settings, bool(params.chat_files), workers)
    take(found, scan, chunks(files), workers)
    found.check_ids()
    duplicates.exact(found)
    if likeness:
        duplicates.near(found, likeness, files)
    found.cap(params.most.model_dump(), params.seed)


def workers_for(files: dict[str, Path]) -> int:
    """Processes that are worth while."""
    size = sum(path.stat().st_size for path in files.values() if path.exists())
    return 1 if size < SMALL else min(processes.available(), MOST_PROCESSES)


def take(found: Catalogue, scan: Scan, work: Iterable[Chunk], workers: int) -> None:
    """Have the chunks read, and take what comes of them in, in their order."""
    with (
        track("mix", unit="records") as progress,
        closing(processes.in_order(scan.scanner, work, workers)) as results,
    ):
        for chunk, columns in results:
            found.add(chunk.origin, columns)
            progress.advance(len(columns.ids))
    found.flush()


def planned(found: Catalogue, files: dict[str, Path], params: Params) -> weights.Plan:
    """Split, weigh and choose. Raises InputError where no source with a weight has a record."""
    found.split(params.validation_share, params.seed)
    sizes = found.sizes("train", params.size)
    if not sizes:
        raise InputError(
            "there is nothing to mix: every source with a weight is empty",
            where=", ".join(map(str, files.values())),
            hint="give a weight in mix.weights to a source that has records",
        )
    given = params.weights.model_dump()
    if params.chat_files and given[CHAT]:
        given = weights.of_files(given, params.chat_files, sizes)
    shares = weights.shares(given, sizes, params.temperature)
    plan = weights.plan(shares, sizes, params.epochs, params.total)
    found.choose(plan.taken, params.size, params.seed)
    return plan


def copied(choices: Iterable[Choice], files: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """The chosen records, read at their places, with their names and `meta.origin`."""
    with ExitStack() as stack:
        opened = {origin: stack.enter_context(open_input(path)) for origin, path in files.items()}
        for choice in choices:
            file = opened[choice.origin]
            file.seek(choice.start)
            row = orjson.loads(file.readline())
            yield {
                "id": choice.name,
                "source": row["source"],
                "messages": row["messages"],
                "meta": {**row.get("meta", {}), "origin": choice.origin},
            }


def removed(found: Catalogue) -> Iterator[dict[str, str]]:
    """What was removed, by id, with the reason and what it was held against; not what was over a limit."""
    rows = found.rows(
        "SELECT id, origin, reason, match, detail FROM removed JOIN records USING (n) "
        "WHERE reason <> 'capped' ORDER BY id"
    )
    return (dict(zip(("id", "origin", "reason", "match", "detail"), row, strict=True)) for row in rows)


def metrics(found: Catalogue, plan: weights.Plan, params: Params) -> dict[str, Any]:
    """Per source: what there was, what its weight asked for and what it got, by tokens and by examples."""
    lengths: list[int] = found.database.execute("SELECT tokens FROM chosen").fetchnumpy()["tokens"].tolist()
    held = totals(found, "validation")
    return {
        "unit": params.weights_by,
        "examples": len(lengths),
        "tokens": sum(lengths),
        "validation_examples": sum(count for count, _, _ in held.values()),
        "validation_tokens": sum(tokens for _, tokens, _ in held.values()),
        "sources": sources(found, plan, len(lengths), sum(lengths)),
        "duplicates": pairs(found),
        "contaminated": contaminated(found),
        "lengths": summary.lengths(lengths),
    }


def sources(found: Catalogue, plan: weights.Plan, examples: int, tokens: int) -> dict[str, dict[str, Any]]:
    """The part of the report about each source, or file of the chat."""
    available, used, held = (totals(found, table) for table in ("live", "chosen", "validation"))
    gone = {
        (part, reason): count
        for part, reason, count in found.rows(
            "SELECT part, reason, count(*) FROM removed JOIN records USING (n) GROUP BY ALL"
        )
    }
    rows = {}
    for part, share in plan.shares.items():
        own_examples, own_tokens, distinct = used[part]
        rows[part] = {
            "available_examples": available[part][0],
            "available_tokens": available[part][1],
            "examples": own_examples,
            "tokens": own_tokens,
            "target_share": round(share, 6),
            "share_of_examples": round(own_examples / examples, 6),
            "share_of_tokens": round(own_tokens / tokens, 6),
            "target": round(plan.targets[part]),
            "shortfall": plan.shortfall(part),
            "distinct_examples": distinct,
            "epochs": round(own_examples / distinct, 2) if distinct else 0.0,
            "validation_examples": held[part][0],
            "duplicates": gone.get((part, "duplicate"), 0),
            "near_duplicates": gone.get((part, "near_duplicate"), 0),
            "contaminated": gone.get((part, "contaminated"), 0),
            "capped": gone.get((part, "capped"), 0),
        }
    return rows


def totals(found: Catalogue, table: str) -> defaultdict[str, tuple[int, int, int]]:
    """(records, tokens, distinct records) of a table, by source or file of the chat."""
    rows = found.rows(
        f"SELECT part, count(*), sum(tokens)::BIGINT, count(DISTINCT n) FROM {table} GROUP BY part"
    )
    return defaultdict(lambda: (0, 0, 0), {part: (n, tokens, own) for part, n, tokens, own in rows})


def pairs(found: Catalogue) -> dict[str, dict[str, int]]:
    """Duplicates by pair of sources: the one that lost them, and the one that has them."""
    rows = found.rows(
        """
        SELECT gone.origin || ' in ' || kept.origin AS pair,
               count(*) FILTER (reason = 'duplicate'), count(*) FILTER (reason = 'near_duplicate')
        FROM removed JOIN records gone USING (n) JOIN records kept ON kept.id = removed.match
        WHERE reason IN ('duplicate', 'near_duplicate') GROUP BY pair ORDER BY pair
        """
    )
    return {pair: {"equal": equal, "almost_equal": almost} for pair, equal, almost in rows}


def contaminated(found: Catalogue) -> dict[str, dict[str, int]]:
    """Records that a benchmark tests, by source and benchmark."""
    rows = found.rows(
        """
        SELECT origin, split_part(match, '/', 1) AS benchmark, count(*) FROM removed JOIN records USING (n)
        WHERE reason = 'contaminated' GROUP BY ALL ORDER BY ALL
        """
    )
    counts: dict[str, dict[str, int]] = {}
    for origin, benchmark, count in rows:
        counts.setdefault(origin, {})[benchmark] = count
    return counts


def state(report: dict[str, Any]) -> None:
    """Say on standard error what each source was to give, gave and lacked, and what was removed."""
    unit = report["unit"]
    for origin, source in report["sources"].items():
        line = (
            f"mix: {origin}: {source['target_share']:.1%} of {unit} wanted, "
            f"{source[f'share_of_{unit}']:.1%} reached, "
            f"{source['examples']:,} examples of {source['available_examples']:,}"
        )
        if source["epochs"] > 1:
            line += f"; each {source['epochs']:g} times on average"
        if source["shortfall"]:
            line += f"; {source['shortfall']:,} {unit} short (mix.epochs, mix.weights)"
        for what in ("contaminated", "duplicates", "near_duplicates", "capped"):
            if source[what]:
                line += f"; {source[what]:,} {what.replace('_', '-')}"
        print(line, file=sys.stderr)
