"""Where a record is, stage by stage: the files of the pipeline are read, nothing is written beside them.

id, or the beginning of one ──▶ resolve ──▶ trace ──▶ what became of it from extract to pack
row of packed tokens        ──▶ documents_of ──▶ the records that stand in it
an answer's key             ──▶ users_of ──▶ the records that hold it, the samples that it is about

The files are sorted by id, so a record is found by bisection: a millisecond, however many there are. Only
what is not known by its id (a key, a misspelt id) takes a pass over the files, with DuckDB.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from stillroom.artifacts import open_input, read_json
from stillroom.errors import InputError

FILES = {
    "extract": ("data/interim/conversations.jsonl", "reports/samples/extract-dropped.jsonl"),
    "distill": ("data/interim/distilled.jsonl",),
    "booksum": ("data/interim/booksum.jsonl",),
    "mqa": ("data/interim/mqa.jsonl",),
    "raft": ("data/interim/raft.jsonl",),
    "mix": (
        "reports/samples/mix-removed.jsonl",
        "data/processed/mixture/validation.jsonl",
        "data/processed/mixture/train.jsonl",
    ),
    "evaluate": ("data/benchmarks/*/eval.jsonl", "reports/samples/*/*.jsonl"),
}
"""the records of each stage, sorted by id; of those that hold one, the last shows most of it"""
PACKED = "data/processed/packed/{}.parquet"
SNAPSHOTS = ("data/interim/*-answers.parquet", "reports/samples/*/*/*-answers.parquet")
"""what teachers, judges and models at endpoints said"""
ASKED = ("model", "judge")
"""who says something of a sample: keys are in {who}-requests.jsonl, texts in {who}-answers.parquet"""
MADE = ("booksum", "mqa", "raft")
SPLITS = ("train", "validation")
MADE_FROM = ("#\\d+", "~\\d+", "/(?:plain|retrieved)")
"""how the ids of what is made from a record end: distill's samples, mix's repetitions, RAFT's contexts"""
NAMED = 5
"""ids that a message names"""


class Found(NamedTuple):
    """A record in a file of a stage."""

    stage: str
    path: Path
    row: dict[str, Any]


@dataclass(frozen=True)
class Document:
    """A record, or a part of one, in a row of packed tokens; rows and places count from 0."""

    name: str
    split: str
    row: int
    place: int
    start: int
    """of its tokens in the row"""
    end: int
    loss_tokens: int

    @property
    def tokens(self) -> int:
        """How many it has."""
        return self.end - self.start


class Said(NamedTuple):
    """An answer that was bought for a sample."""

    path: Path
    """of the sample"""
    id: str
    who: str
    key: str
    text: str


@dataclass
class Trace:
    """What became of a record; empty where a stage has not run or does not know it."""

    id: str
    found: list[Found] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)
    shares: dict[str, Any] = field(default_factory=dict)
    """target and reached share of its source"""

    def rows(self, stage: str, part: str = "") -> list[dict[str, Any]]:
        """Its records in the files of a stage, or in those with `part` in their names."""
        return [found.row for found in self.found if found.stage == stage and part in found.path.as_posix()]

    def as_json(self) -> dict[str, Any]:
        """All of it, for other programs."""
        records = [{"stage": f.stage, "path": f.path.as_posix(), "record": f.row} for f in self.found]
        packed = [asdict(document) for document in self.documents]
        said = [{**s._asdict(), "path": s.path.as_posix()} for s in self.said]
        return {"id": self.id, "records": records, "shares": self.shares, "packed": packed, "said": said}


def files(root: Path) -> Iterator[tuple[str, Path]]:
    """(stage, path) of the files that are there."""
    for stage, patterns in FILES.items():
        for pattern in patterns:
            yield from ((stage, path) for path in sorted(root.glob(pattern)))


def records(root: Path, beginning: str, most: int | None = None) -> list[Found]:
    """The records whose ids begin so, at most so many of each file."""
    return [
        Found(stage, path, row)
        for stage, path in files(root)
        for _, row in zip(range(most or 1 << 62), beginning_with(path, beginning), strict=False)
    ]


def resolve(root: Path, text: str) -> str:
    """The id that is meant: itself, or the only one that begins so.

    Raises InputError, with the nearest ids, where there is none, and where there are several.
    """
    if any(found.row["id"] == text for found in records(root, text, 1)):
        return text
    ids = sorted({found.row["id"] for found in records(root, text, NAMED)})
    stems: list[str] = [id for id in ids if not any(other != id and derived(id, other) for other in ids)]
    if len(stems) == 1:
        return stems[0]
    if stems:
        more = ", …" if len(stems) > NAMED else ""
        raise InputError(f"several ids begin with {text!r}", hint=", ".join(stems[:NAMED]) + more)
    near = nearest(root, text)
    hint = f"nearest: {', '.join(near)}" if near else "no stage has written records yet: stillroom run"
    raise InputError(f"no record has the id {text!r}", hint=hint)


def trace(root: Path, id: str) -> Trace:
    """Follow a record, with all that was made of it: samples of distill, repetitions of mix."""
    stem = made_from(root, id)
    found = [f for f in records(root, stem) if derived(f.row["id"], stem)]
    names = {f.row["id"] for f in found if f.stage == "mix"}
    answers = [s for f in found if f.stage == "evaluate" for s in said(f.path, f.row["id"])]
    return Trace(stem, found, answers, list(packed(root, names)), shares(root, found))


def said(samples: Path, id: str) -> Iterator[Said]:
    """What was bought for a sample: a model's answer at an endpoint, its judge's verdicts in their order.

    Raises InputError where its file of answers is absent, malformed, or lacks one.
    """
    from stillroom.teacher import snapshot as snapshots

    folder = samples.with_suffix("")
    for who in ASKED:
        path = folder / f"{who}-requests.jsonl"
        row = next(beginning_with(path, id), None) if path.is_file() else None
        if row is None or row["id"] != id:
            continue
        texts = snapshots.texts(folder / f"{who}-answers.parquet", row["keys"])
        yield from (Said(samples, id, who, key, texts[key]) for key in row["keys"])


def derived(id: str, stem: str) -> bool:
    """Whether an id is another one, or was made from it: see MADE_FROM."""
    return bool(re.fullmatch(re.escape(stem) + "".join(f"({suffix})?" for suffix in MADE_FROM), id))


def made_from(root: Path, id: str) -> str:
    """The record that another one was made from; any other id is its own."""
    for suffix in reversed(MADE_FROM):
        shorter = re.sub(f"{suffix}$", "", id)
        if shorter != id and any(found.row["id"] == shorter for found in records(root, shorter, 1)):
            id = shorter
    return id


def shares(root: Path, found: Sequence[Found]) -> dict[str, Any]:
    """What mix reports of the source of a record."""
    mixed = [f.row["meta"] for f in found if f.stage == "mix" and "meta" in f.row]
    path = root / "reports/metrics/mix.json"
    if not mixed or not path.is_file():
        return {}
    report = read_json(path)
    origin, file = mixed[0]["origin"], mixed[0].get("file")
    source = report["sources"].get(f"{origin}/{file}") or report["sources"][origin]
    unit = report["unit"]
    return {"unit": unit, "target": source["target_share"], "reached": source[f"share_of_{unit}"]}


def beginning_with(path: Path, beginning: str) -> Iterator[dict[str, Any]]:
    """The rows of a file, sorted by id, whose ids begin so."""
    with open_input(path) as file:
        file.seek(place_of(file, beginning, path))
        for line in file:
            row = _row(line, path)
            if not row["id"].startswith(beginning):
                return
            yield row


def place_of(file: BinaryIO, id: str, path: Path) -> int:
    """Where the first line begins whose id is not before `id`; the file's end where there is none."""
    low, high = 0, os.fstat(file.fileno()).st_size
    while low < high:
        middle = (low + high) // 2
        start, line = line_after(file, middle)
        if not line or _row(line, path)["id"] >= id:
            high = middle
        else:
            low = start + len(line)
    return line_after(file, low)[0]


def line_after(file: BinaryIO, place: int) -> tuple[int, bytes]:
    """The first line that begins there or later, and where."""
    file.seek(max(0, place - 1))
    if place:
        file.readline()
    return file.tell(), file.readline()


def _row(line: bytes, path: Path) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
        if isinstance(row["id"], str):
            return dict(row)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        pass
    raise InputError("a line is no record with an id", where=str(path))


def nearest(root: Path, text: str) -> list[str]:
    """The ids that are spelled most like it."""
    found = [str(path) for _, path in files(root) if path.stat().st_size]
    if not found:
        return []
    query = f"""
        SELECT DISTINCT regexp_replace(id, '~[0-9]+$', '') AS name
        FROM {_json("{'id': 'VARCHAR'}")} ORDER BY levenshtein(name, ?), name LIMIT 3
    """
    return [name for (name,) in _rows(query, found, text)]


def users_of(root: Path, key: str) -> list[str]:
    """The ids of the records that hold an answer whose key begins so, and of the samples that it is about."""
    records = [str(path) for stage, path in files(root) if stage in ("distill", "raft")]
    asked = [p for who in ASKED for p in sorted(root.glob(f"reports/samples/*/*/{who}-requests.jsonl"))]
    samples = [str(path) for path in asked if path.stat().st_size]
    in_records = _json("{'id': 'VARCHAR', 'meta': 'VARCHAR'}")
    in_samples = _json("{'id': 'VARCHAR', 'keys': 'VARCHAR'}")
    found = []
    if records:
        query = f"""SELECT id FROM {in_records} WHERE contains(meta, 'key":"' || ?) ORDER BY id"""
        found += _rows(query, records, key.lower())
    if samples:
        query = f"""SELECT DISTINCT id FROM {in_samples} WHERE contains(keys, '"' || ?) ORDER BY id"""
        found += _rows(query, samples, key.lower())
    return [name for (name,) in found]


def snapshot(root: Path, key: str) -> list[dict[str, Any]]:
    """The answers in the versioned snapshots whose keys begin so."""
    found = [str(path) for pattern in SNAPSHOTS for path in sorted(root.glob(pattern))]
    names = ("key", "request", "text", "finish_reason", "prompt_tokens", "completion_tokens")
    query = f"SELECT DISTINCT {', '.join(names)} FROM read_parquet(?) WHERE starts_with(key, ?) LIMIT 2"
    rows = _rows(query, found, key.lower()) if found else []
    return [dict(zip(names, row, strict=True)) for row in rows]


def packed(root: Path, names: set[str]) -> Iterator[Document]:
    """The places of records among the packed rows."""
    for split in SPLITS:
        path = root / PACKED.format(split)
        if names and path.is_file():
            query = (
                "SELECT file_row_number FROM read_parquet(?, file_row_number = true) "
                "WHERE list_has_any(documents, ?) ORDER BY ALL"
            )
            rows = [row for (row,) in _rows(query, str(path), sorted(names))]
            yield from (document for document in _documents(path, split, rows) if document.name in names)


def documents_of(root: Path, split: str, row: int) -> list[Document]:
    """The documents of a packed row. Raises InputError where there is no such row."""
    path = root / PACKED.format(split)
    if not path.is_file():
        raise InputError("no such file", where=str(path), hint="run first: stillroom pack")
    found = list(_documents(path, split, [row]))
    if not found:
        [(count,)] = _rows("SELECT count(*) FROM read_parquet(?)", str(path))
        raise InputError(f"there is no row {row}", where=str(path), hint=f"rows are 0 to {count - 1}")
    return found


def _documents(path: Path, split: str, rows: Sequence[int]) -> Iterator[Document]:
    """The documents of some rows, read by row group."""
    query = """
        SELECT documents[place], file_row_number, place - 1, cu_seqlens[place], cu_seqlens[place + 1],
               len(list_filter(labels[cu_seqlens[place] + 1:cu_seqlens[place + 1]], lambda label: label >= 0))
        FROM (SELECT *, unnest(range(1, len(documents) + 1)) AS place
              FROM read_parquet(?, file_row_number = true)
              WHERE file_row_number IN (SELECT unnest(?::BIGINT[])))
        ORDER BY file_row_number, place
    """
    for name, row, place, start, end, loss in _rows(query, str(path), list(rows)) if rows else ():
        yield Document(name, split, row, place, start, end, loss)


def _json(columns: str) -> str:
    """SQL: the lines of the files that are the first parameter."""
    return f"read_json(?, format = 'newline_delimited', columns = {columns}, maximum_object_size = 268435456)"


def _rows(query: str, *values: Any) -> list[tuple[Any, ...]]:
    import duckdb

    return duckdb.connect().execute(query, list(values)).fetchall()
