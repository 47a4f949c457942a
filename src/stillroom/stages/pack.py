"""The mixture into packed rows of token ids.

data/processed/mixture/{train,validation}.jsonl ──▶ pack ──▶ data/processed/packed/{train,validation}.parquet,
                                                            data/processed/packed/info.json

    stillroom pack

Token ids lie in a file while rows are planned; in memory are only lengths and names of records. A record
stands whole in one row. Its labels are shifted here, so that none is ever another record's.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stillroom import chat_format, summary
from stillroom.artifacts import atomic_directory, write_json
from stillroom.chat_format import (
    ChatFormat,
    Encoded,
    Tokenizer,
    encode,
    encode_stream,
    encode_texts,
    load_tokenizer,
)
from stillroom.errors import InputError
from stillroom.packing import best_fit_decreasing, lower_bound
from stillroom.params import Block
from stillroom.progress import track
from stillroom.records import Conversation, Message, read_conversations

IGNORED = -100
"""the label of a position without loss"""
CUT = "\n[…]\n"
"""stands where the middle of a text was cut"""
ROW_GROUP_TOKENS = 2_000_000
"""tokens of a row group: what a reader holds at a time"""
INTS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    [("input_ids", INTS), ("labels", INTS), ("cu_seqlens", INTS), ("documents", pa.list_(pa.string()))]
)

Ints = np.ndarray[Any, np.dtype[np.int32]]


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
    over_length: Literal["drop", "trim"] = "drop"
    """a record longer than a row: drop it, or cut the middle of its longest user text; never an answer"""


@dataclass(frozen=True)
class Paths:
    """Where dvc.yaml says that things lie."""

    mixture: Path = Path("data/processed/mixture")
    base: Path = Path("models/base")
    packed: Path = Path("data/processed/packed")
    metrics: Path = Path("reports/metrics/pack.json")


@dataclass
class Documents:
    """Encoded records: ids and labels end to end in two files, with names and lengths in the same order."""

    ids: Path
    labels: Path
    names: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    loss_tokens: int = 0
    trimmed: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    origins: Counter[str] = field(default_factory=Counter)
    """tokens by origin"""

    def columns(self) -> tuple[Ints, Ints]:
        """Both files, mapped into memory."""
        if not self.lengths:
            return np.empty(0, np.int32), np.empty(0, np.int32)
        return np.memmap(self.ids, np.int32, "r"), np.memmap(self.labels, np.int32, "r")


def run(paths: Paths, params: Params) -> None:
    """Write packed rows and metrics. Raises InputError where no record can be trained on."""
    chat, tokenizer = chat_format.get(params.chat_format), load_tokenizer(paths.base)
    figures: dict[str, Any] = {}
    with atomic_directory(paths.packed) as folder, TemporaryDirectory(dir=folder) as scratch:
        for split in ("train", "validation"):
            source = paths.mixture / f"{split}.jsonl"
            documents = encoded(source, Path(scratch, split), params, chat, tokenizer)
            rows = best_fit_decreasing(documents.lengths, params.context_length)
            Random(params.seed).shuffle(rows)
            write_rows(folder / f"{split}.parquet", documents, rows)
            figures[split] = summarised(documents, rows, params.context_length)
        if not figures["train"]["rows"]:
            hint = f"left out: {figures['train']['dropped']}"
            raise InputError("no record can be trained on", where=str(paths.mixture), hint=hint)
        write_json(folder / "info.json", info(figures, params, tokenizer))
    write_json(paths.metrics, figures)


def encoded(source: Path, scratch: Path, params: Params, chat: ChatFormat, tokenizer: Tokenizer) -> Documents:
    """Encode a file of conversations into two files of ids and labels, in the records' order."""
    documents = Documents(scratch.with_suffix(".ids"), scratch.with_suffix(".labels"))
    with (
        track(f"pack {source.stem}") as progress,
        documents.ids.open("wb") as ids,
        documents.labels.open("wb") as labels,
    ):
        for record, row in encode_stream(chat, tokenizer, read_conversations(source)):
            progress.advance()
            fitting = fitted(record, row, params, chat, tokenizer)
            if fitting is None or not any(fitting.learn):
                documents.dropped["too_long" if fitting is None else "no_answer"] += 1
                continue
            documents.trimmed += fitting is not row
            if record.meta.get("origin") in params.whole_text:
                fitting = replace(fitting, learn=[True] * len(fitting.ids))
            add(documents, record, fitting)
            ids.write(np.array(fitting.ids, dtype=np.int32).tobytes())
            labels.write(targets(fitting).tobytes())
    report(source.stem, documents)
    return documents


def fitted(
    record: Conversation, row: Encoded, params: Params, chat: ChatFormat, tokenizer: Tokenizer
) -> Encoded | None:
    """The record's row, trimmed where that is asked for and needed; None where it does not fit."""
    if len(row.ids) <= params.context_length:
        return row
    if params.over_length == "drop":
        return None
    messages = trimmed(record.messages, params.context_length, chat, tokenizer)
    return encode(chat, tokenizer, [messages])[0] if messages else None


def trimmed(
    messages: Sequence[Message], limit: int, chat: ChatFormat, tokenizer: Tokenizer
) -> list[Message] | None:
    """The messages with the middle of the longest user text cut so that all take at most `limit` tokens.

    Beginning and end stay, since a request stands at either. None where even without it they are too long.
    """
    users = [i for i, message in enumerate(messages) if message.role == "user"]
    if not users:
        return None
    at = max(users, key=lambda i: len(messages[i].content))
    text = messages[at].content
    kept = len(text)
    while kept > 0:
        half = kept // 2
        short = text if kept == len(text) else text[:half] + CUT + text[len(text) - half :]
        tried = [*messages[:at], Message("user", short), *messages[at + 1 :]]
        excess = len(encode(chat, tokenizer, [tried])[0].ids) - limit
        if excess <= 0:
            return tried
        tokens = max(1, len(encode_texts(tokenizer, [short])[0]))
        kept = min(kept * (tokens - excess) // tokens, kept - 2)
    return None


def targets(row: Encoded) -> Ints:
    """labels[i] is what follows position i where it is learned, else IGNORED; the last position has none."""
    labels = np.full(len(row.ids), IGNORED, dtype=np.int32)
    learned = np.array(row.learn[1:], dtype=bool)
    labels[:-1][learned] = np.array(row.ids[1:], dtype=np.int32)[learned]
    return labels


def add(documents: Documents, record: Conversation, row: Encoded) -> None:
    """Note a record that is written."""
    documents.names.append(record.id)
    documents.lengths.append(len(row.ids))
    documents.loss_tokens += sum(row.learn[1:])
    documents.origins[str(record.meta.get("origin", record.source))] += len(row.ids)


def write_rows(path: Path, documents: Documents, rows: Sequence[Sequence[int]]) -> None:
    """Write packed rows, a row group at a time, in the order given."""
    ids, labels = documents.columns()
    lengths = documents.lengths
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for group in row_groups(rows, lengths):
            spans = [[slice(starts[i], starts[i + 1]) for i in row] for row in group]
            columns = [
                [np.concatenate([ids[span] for span in row]) for row in spans],
                [np.concatenate([labels[span] for span in row]) for row in spans],
                [np.cumsum([0, *(lengths[i] for i in row)]) for row in group],
                [[documents.names[i] for i in row] for row in group],
            ]
            arrays = [pa.array(c, type=kind) for c, kind in zip(columns, SCHEMA.types, strict=True)]
            writer.write_table(pa.table(arrays, schema=SCHEMA))


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
    tokens = sum(documents.lengths)
    return {
        "documents": len(documents.lengths),
        "rows": len(rows),
        "fewest_rows_possible": lower_bound(documents.lengths, capacity),
        "tokens": tokens,
        "loss_tokens": documents.loss_tokens,
        "loss_share": round(documents.loss_tokens / tokens, 6) if tokens else 0.0,
        "density": round(tokens / (len(rows) * capacity), 6) if rows else 0.0,
        "trimmed": documents.trimmed,
        "dropped": {reason: documents.dropped[reason] for reason in ("no_answer", "too_long")},
        "tokens_by_origin": dict(sorted(documents.origins.items())),
        "lengths": summary.lengths(documents.lengths),
    }


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
    """State on standard error what was left out."""
    left_out = dict(sorted(documents.dropped.items()))
    if left_out or documents.trimmed:
        print(f"pack {split}: left out {left_out}, {documents.trimmed} trimmed", file=sys.stderr)
