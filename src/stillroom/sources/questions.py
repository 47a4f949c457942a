"""Questions with answers and the passage that holds one, whatever the shape of their records.

data/raw/questions ──▶ records, each read by the adapter that its shape asks for ──▶ Sourced

JSON Lines, a JSON array, one JSON object, Parquet, also compressed; a folder or a file may mix shapes. A new
shape is a file here and an entry in ADAPTERS, whose files hold worked examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import orjson

from stillroom.errors import InputError
from stillroom.sources import dpr, lost_in_the_middle, squad, squad_rows
from stillroom.sources.dumps import ENDINGS, Broken, ending, plain, read_dump
from stillroom.sources.passages import listed, records
from stillroom.sources.question import Asked, Passage, QuestionAdapter, Record, Source
from stillroom.squad import holds, normalise

ADAPTERS: tuple[QuestionAdapter, ...] = (
    lost_in_the_middle.ADAPTER,
    dpr.ADAPTER,
    squad.ADAPTER,
    squad_rows.ADAPTER,
)


class Sourced(NamedTuple):
    """A question with its gold passage, and where both are from."""

    asked: Asked
    gold: Passage
    source: Source


def read_questions(folder: Path, dropped: Counter[str]) -> Iterator[Sourced]:
    """Yield the questions of a folder; `dropped` counts those left out, by reason.

    Reasons: `no_answer` (none that is more than articles and punctuation), `no_gold` (no gold passage),
    `gold_without_answer`. Raises InputError naming file, record and field.
    """
    for path, file in listed(folder, ENDINGS):
        for number, record in enumerate(objects(path), 1):
            adapter = adapter_of(record)
            for asked in adapter.read(record):
                answers = tuple(answer for answer in asked.answers if normalise(answer))
                if not answers:
                    dropped["no_answer"] += 1
                elif asked.gold is None:
                    dropped["no_gold"] += 1
                elif not holds(asked.gold.whole, answers):
                    dropped["gold_without_answer"] += 1
                else:
                    source = Source(file, asked.paragraph or number, adapter.name, asked.id)
                    yield Sourced(replace(asked, answers=answers), asked.gold, source)


def adapter_of(record: Record) -> QuestionAdapter:
    """The adapter of a record's shape. Raises InputError where it has none."""
    found = next((adapter for adapter in ADAPTERS if adapter.fits(record.value)), None)
    if found is None:
        hint = f"known shapes: {'; '.join(adapter.name for adapter in ADAPTERS)}"
        what = f"a question of an unknown shape (fields: {', '.join(record.value)})"
        raise InputError(what, where=record.where, hint=hint)
    return found


def objects(path: Path) -> Iterator[Record]:
    """The objects of a file; a .json file may be one. Raises InputError where one is broken."""
    if ending(path) == ".json" and isinstance(next(read_dump(path), None), Broken):
        yield one_object(path)
    else:
        yield from records(path)


def one_object(path: Path) -> Record:
    """The object that fills a file, over as many lines as it likes. Raises InputError where it is broken."""
    try:
        with path.open("rb") as raw, plain(raw, path) as file:
            value = orjson.loads(file.read())
    except (orjson.JSONDecodeError, OSError) as error:
        raise InputError(f"not valid JSON ({error})", where=str(path)) from None
    if not isinstance(value, dict):
        raise InputError("a JSON object was expected", where=str(path))
    return Record(f"{path}: record 1", value)
