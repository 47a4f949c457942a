"""The mixture into packed rows of token ids.

data/processed/mixture/{train,validation}.jsonl ──▶ pack ──▶ data/processed/packed/{train,validation}.parquet,
                                                            data/processed/packed/info.json

    stillroom pack

Batches of lines are tokenised by several processes. Token ids lie in a file while rows are planned; in memory
are only lengths and names of records. A document (a record, or a part of one that was split) stands whole in
one row. Its labels are shifted here, so that none is ever another's.
"""

from __future__ import annotations

import functools
import os
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from stillroom import chat_format, overlength, processes, summary
from stillroom.artifacts import atomic_directory, open_input, write_json
from stillroom.chat_format import Rows, Tokenizer, encode_rows, load_tokenizer
from stillroom.errors import InputError
from stillroom.packing import best_fit_decreasing, lower_bound
from stillroom.params import Block
from stillroom.progress import track
from stillroom.records import Conversation, Message, conversation
from stillroom.tokenising import Ints, Words

IGNORED = -100
"""the label of a position without loss"""
BATCH_BYTES = 1_000_000
"""of the mixture that a process takes at a time"""
SMALL = 64_000_000
"""bytes of a mixture that one process packs sooner than others have started"""
ROW_GROUP_TOKENS = 2_000_000
"""tokens of a row group: what a reader holds at a time"""
INTS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    [("input_ids", INTS), ("labels", INTS), ("cu_seqlens", INTS), ("documents", pa.list_(pa.string()))]
)

FATES = ("trimmed", "split", "no_answer", "too_long", "exchanges_too_long")
"""what may become of a record, or an exchange of one, that does not go in as it is"""

Bools = np.ndarray[Any, np.dtype[np.bool_]]


class Params(Block):
    """The `pack` block of params.yaml."""

    common_keys = ("seed", "chat_format", "context_length")

    seed: int = 42
    """of the order of the rows"""
    chat_format: str = "inst"
    """how conversations are spelled"""
    context_length: int = 32768
    """most tokens of a row"""
    whole_text: list[Literal["chat", "booksum", "mqa", "raft"]] = []
    """origins whose every token is learned, as in pretraining; of the others only the answers"""
    over_length: Literal["drop", "trim", "split"] = "drop"
    """a longer record: drop it, trim the middle of its longest user text, or split it before user turns"""


@dataclass(frozen=True)
class Paths:
    """Where dvc.yaml says that things lie."""

    mixture: Path = Path("data/processed/mixture")
    base: Path = Path("models/base")
    packed: Path = Path("data/processed/packed")
    metrics: Path = Path("reports/metrics/pack.json")


@dataclass(frozen=True)
class Lines:
    """Some lines of a mixture; `first` is the number of the first one."""

    path: Path
    first: int
    lines: list[bytes]


@dataclass
class Batch:
    """Documents made of some lines: rows of tokens, and of each the record's id and origin."""

    rows: list[tuple[Ints, Bools]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)
    fates: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(origin, what became of a record that was not simply kept) ──▶ how many"""


@dataclass
class Documents:
    """All documents: ids and loss mask end to end in two files, the rest in the same order in memory."""

    ids: Path
    learn: Path
    names: list[str] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)
    lengths: array[int] = field(default_factory=lambda: array("q"))
    learned: array[int] = field(default_factory=lambda: array("q"))
    """loss tokens of each"""
    fates: Counter[tuple[str, str]] = field(default_factory=Counter)

    def columns(self) -> tuple[Ints, Bools]:
        """Both files, mapped into memory."""
        if not self.lengths:
            return np.empty(0, np.int32), np.empty(0, np.bool_)
        return np.memmap(self.ids, np.int32, "r"), np.memmap(self.learn, np.bool_, "r")

    def fate(self, what: str, origin: str | None = None) -> int:
        """How often something became of records, of one origin or of all."""
        return sum(n for (own, fate), n in self.fates.items() if fate == what and origin in (None, own))


def run(paths: Paths, params: Params, workers: int | None = None) -> None:
    """Write packed rows and metrics with at most `workers` processes, by default one per core.

    Raises InputError where no record can be trained on.
    """
    packer = Packer(paths.base, params)
    splits: dict[str, Any] = {}
    sources: dict[str, Any] = {}
    with atomic_directory(paths.packed) as folder, TemporaryDirectory(dir=folder) as scratch:
        for split in ("train", "validation"):
            source = paths.mixture / f"{split}.jsonl"
            documents = encoded(source, Path(scratch, split), packer, workers)
            rows = best_fit_decreasing(documents.lengths, params.context_length)
            Random(params.seed).shuffle(rows)
            write_rows(folder / f"{split}.parquet", documents, rows)
            splits[split] = summarised(documents, rows, params.context_length)
            sources = sources or by_source(documents)
        if not splits["train"]["rows"]:
            hint = f"left out: {splits['train']['dropped']}"
            raise InputError("no record can be trained on", where=str(paths.mixture), hint=hint)
        write_json(folder / "info.json", info(splits, params, packer.tokenizer))
    write_json(paths.metrics, {**splits, **sources})


def encoded(source: Path, scratch: Path, packer: Packer, workers: int | None = None) -> Documents:
    """Encode a file of conversations into two files of ids and loss mask, in the records' order."""
    documents = Documents(scratch.with_suffix(".ids"), scratch.with_suffix(".learn"))
    with open_input(source) as file:
        small = os.fstat(file.fileno()).st_size < SMALL
    wanted = 1 if small else workers or processes.available()
    make = (
        functools.partial(Packer, packer.base, packer.params, threads=False) if wanted > 1 else lambda: packer
    )
    with (
        track(f"pack {source.stem}") as progress,
        documents.ids.open("wb") as ids,
        documents.learn.open("wb") as learn,
        closing(processes.in_order(make, batches(source), wanted)) as results,
    ):
        for lines, batch in results:
            for row, mask in batch.rows:
                ids.write(row.tobytes())
                learn.write(mask.tobytes())
                documents.lengths.append(len(row))
                documents.learned.append(int(mask.sum()))
            documents.names += batch.names
            documents.origins += batch.origins
            documents.fates += batch.fates
            progress.advance(len(lines.lines))
    report(source.stem, documents)
    return documents


def batches(path: Path) -> Iterator[Lines]:
    """The lines of a file, some BATCH_BYTES at a time."""
    first = 1
    with open_input(path) as file:
        while lines := file.readlines(BATCH_BYTES):
            yield Lines(path, first, lines)
            first += len(lines)


class Packer:
    """Makes documents of lines: what one process does."""

    def __init__(self, base: Path, params: Params, threads: bool = True) -> None:
        if not threads:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self.base, self.params, self.tokenizer = base, params, load_tokenizer(base)
        self._chat = chat_format.get(params.chat_format).bound(self.tokenizer)
        self._words = Words(chat_format.codec(self.tokenizer))

    def __call__(self, lines: Lines) -> Batch:
        """Encode records, in their order. Raises InputError naming the line."""
        batch = Batch()
        records = list(parsed(lines))
        encoded = self._encode([record.messages for record in records])
        for record, row in zip(records, each(encoded), strict=True):
            origin = str(record.meta.get("origin", record.source))
            for ids, learn in self._fitted(record, row, origin, batch.fates):
                learn[:] |= origin in self.params.whole_text
                learn[0] = False  # nothing stands before it that it could be learned from
                if learn.any():
                    batch.rows.append((ids, learn))
                    batch.names.append(record.id)
                    batch.origins.append(origin)
                else:
                    batch.fates[origin, "no_answer"] += 1
        return batch

    def _encode(self, conversations: Sequence[Sequence[Message]]) -> Rows:
        return encode_rows(self._chat, self.tokenizer, conversations, self._words)

    def _measure(self, messages: Sequence[Message]) -> int:
        return len(self._encode([messages]).ids)

    def _fitted(
        self, record: Conversation, row: tuple[Ints, Bools], origin: str, fates: Counter[tuple[str, str]]
    ) -> Iterable[tuple[Ints, Bools]]:
        """The record's rows: one as it is, or what the policy makes of one that is too long."""
        limit, policy = self.params.context_length, self.params.over_length
        if len(row[0]) <= limit:
            return [row]
        parts: list[list[Message]] = []
        if policy == "trim":
            short = overlength.trimmed(record.messages, limit, self._measure)
            parts = [short] if short else []
        elif policy == "split":
            parts, lost = overlength.split(record.messages, limit, self._measure)
            fates[origin, "exchanges_too_long"] += lost if parts else 0
        fates[origin, {"trim": "trimmed", "split": "split"}[policy] if parts else "too_long"] += 1
        return each(self._encode(parts))


def parsed(lines: Lines) -> Iterator[Conversation]:
    """The records of lines that are not blank. Raises InputError naming the line."""
    for number, line in enumerate(lines.lines, lines.first):
        if line.isspace():
            continue
        where = f"{lines.path}:{number}"
        try:
            yield conversation(orjson.loads(line), where)
        except orjson.JSONDecodeError as error:
            raise InputError(f"not valid JSON ({error})", where=where) from None


def each(rows: Rows) -> Iterator[tuple[Ints, Bools]]:
    """Ids and loss mask of every row."""
    for start, end in pairwise(rows.bounds.tolist()):
        yield rows.ids[start:end], rows.learn[start:end]


def write_rows(path: Path, documents: Documents, rows: Sequence[Sequence[int]]) -> None:
    """Write packed rows, a row group at a time, in the order given."""
    ids, learn = documents.columns()
    lengths = np.array(documents.lengths, dtype=np.int64)
    ends = np.cumsum(lengths)
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for group in row_groups(rows, documents.lengths):
            spans = [slice(ends[i] - lengths[i], ends[i]) for row in group for i in row]
            tokens = np.concatenate([ids[span] for span in spans])
            labels = targets(tokens, np.concatenate([learn[span] for span in spans]))
            bounds = [np.cumsum([0, *lengths[row]]) for row in group]
            sizes = [bound[-1] for bound in bounds]
            arrays = [
                listed(tokens, sizes),
                listed(labels, sizes),
                listed(np.concatenate(bounds), [len(bound) for bound in bounds]),
                pa.array([[documents.names[i] for i in row] for row in group], type=SCHEMA.types[3]),
            ]
            writer.write_table(pa.table(arrays, schema=SCHEMA))


def targets(ids: Ints, learn: Bools) -> Ints:
    """labels[i] is what follows position i where it is learned, else IGNORED.

    No document's first token is learned, so that no label is of the next document.
    """
    labels = np.full(len(ids), IGNORED, dtype=np.int32)
    np.copyto(labels[:-1], ids[1:], where=learn[1:])
    return labels


def listed(values: Ints, sizes: Sequence[int]) -> pa.ListArray:
    """Values as lists of these sizes."""
    offsets = pa.array(np.cumsum([0, *sizes]), type=pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(values, type=pa.int32()), type=INTS)


def row_groups(rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> Iterator[list[Sequence[int]]]:
    """Rows in groups of about ROW_GROUP_TOKENS."""
    group: list[Sequence[int]] = []
    tokens = 0
    for row in rows:
        group.append(row)
        tokens += sum(lengths[i] for i in row)
        if tokens >= ROW_GROUP_TOKENS:
            yield group
            group, tokens = [], 0
    if group:
        yield group


def summarised(documents: Documents, rows: Sequence[Sequence[int]], capacity: int) -> dict[str, Any]:
    """Counts, density, what was left out and lengths of one split."""
    tokens, learned = sum(documents.lengths), sum(documents.learned)
    return {
        "documents": len(documents.lengths),
        "rows": len(rows),
        "fewest_rows_possible": lower_bound(documents.lengths, capacity),
        "tokens": tokens,
        "loss_tokens": learned,
        "loss_share": share(learned, tokens),
        "density": share(tokens, len(rows) * capacity),
        "trimmed": documents.fate("trimmed"),
        "split": documents.fate("split"),
        "dropped": {fate: documents.fate(fate) for fate in ("no_answer", "too_long", "exchanges_too_long")},
        "tokens_by_origin": {
            name: sum(lengths) for name, lengths in columns(documents, documents.lengths).items()
        },
        "lengths": summary.lengths(documents.lengths),
    }


def by_source(documents: Documents) -> dict[str, Any]:
    """Of each origin: a line of a table, and a histogram of its documents' lengths."""
    lengths, learned = columns(documents, documents.lengths), columns(documents, documents.learned)
    origins = sorted({*lengths, *(origin for origin, _ in documents.fates)})
    table = {
        origin: {
            "documents": len(lengths.get(origin, ())),
            "tokens": sum(lengths.get(origin, ())),
            "loss_tokens": sum(learned.get(origin, ())),
            "loss_share": share(sum(learned.get(origin, ())), sum(lengths.get(origin, ()))),
            **{fate: documents.fate(fate, origin) for fate in FATES},
        }
        for origin in origins
    }
    histograms = {f"documents_by_tokens.{name}": histogram(own) for name, own in lengths.items()}
    return {"sources": table, **histograms}


def columns(documents: Documents, values: Sequence[int]) -> dict[str, list[int]]:
    """Values of the documents, by origin."""
    found: dict[str, list[int]] = {}
    for origin, value in zip(documents.origins, values, strict=True):
        found.setdefault(origin, []).append(value)
    return dict(sorted(found.items()))


def histogram(lengths: Sequence[int]) -> dict[str, int]:
    """Documents of at most so many tokens and more than half as many, by powers of two."""
    counts = Counter(max(length - 1, 0).bit_length() for length in lengths)
    return {str(2**power): counts[power] for power in range(min(counts), max(counts) + 1)}


def share(part: int, whole: int) -> float:
    """A part of a whole, 0 of nothing."""
    return round(part / whole, 6) if whole else 0.0


def info(figures: dict[str, Any], params: Params, tokenizer: Tokenizer) -> dict[str, Any]:
    """What a reader of the rows must know; figures are those of the training rows."""
    train, pad = figures["train"], tokenizer.pad_token_id
    return {
        "context_length": params.context_length,
        "chat_format": params.chat_format,
        "pad_token_id": tokenizer.eos_token_id if pad is None else pad,
        "vocab_size": len(tokenizer),
        **{key: train[key] for key in ("rows", "documents", "tokens", "loss_tokens", "density")},
        "validation_rows": figures["validation"]["rows"],
        "validation_tokens": figures["validation"]["tokens"],
    }


def report(split: str, documents: Documents) -> None:
    """State on standard error what did not go in as it was."""
    found = [f"{documents.fate(fate):,} {fate.replace('_', ' ')}" for fate in FATES if documents.fate(fate)]
    if found:
        print(f"pack {split}: {', '.join(found)}", file=sys.stderr)
