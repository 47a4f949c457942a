"""JSON and JSON Lines whose records are documents.

    {"title": "Ferry", "url": "https://…", "text": "The bell is rung …"}   a text, its title and source
    {"page_content": "…", "metadata": {"source": "a.md"}}                  the same as LangChain writes it
    {"api_name": "…", "api_call": "…", "functionality": "…", …}            an API as Gorilla describes it

A file holds one record, an array of them, or one a line (also .gz and .zst). They are read one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from stillroom.errors import InputError
from stillroom.sources.documents.document import Found
from stillroom.sources.dumps import LARGEST_RECORD, Broken, Record, read_dump

TEXTS = ("text", "content", "body", "page_content")
TITLES = ("title", "name", "heading")
SOURCES = ("source", "url", "link")
API = ("api_name", "api_call", "functionality")


def read(path: Path) -> Iterator[Found | InputError]:
    """The records; in place of one that is no document, what is wrong with it."""
    for record in _records(path):
        place = f"{path}:{record.number}"
        if isinstance(record, Broken):
            yield InputError(record.error, where=place)
        elif not isinstance(record.value, dict):
            yield InputError("a record is an object with a field `text`", where=place)
        else:
            yield document(record.value, str(record.number), place)


def document(record: Mapping[str, Any], number: str, place: str) -> Found | InputError:
    """The document of a record, or what is wrong with it."""
    metadata = record.get("metadata")
    around = {**metadata, **record} if isinstance(metadata, dict) else record
    text = next((record[key] for key in TEXTS if isinstance(record.get(key), str)), None)
    if text is None and all(key in record for key in API):
        return Found(described(record), str(record["api_name"]), _first(around, SOURCES), number)
    if text is None:
        hint = f"the text is looked for in {', '.join(TEXTS)}; the record has {', '.join(record)}"
        return InputError("no field holds a text", where=place, hint=hint)
    return Found(text, _first(around, TITLES), _first(around, SOURCES), number)


def described(record: Mapping[str, Any]) -> str:
    """An API's description as Markdown, field by field."""
    fields = {key: value for key, value in record.items() if value not in (None, "", [], {})}
    lines = (f"- {key}: {value if isinstance(value, str) else _json(value)}" for key, value in fields.items())
    return "\n".join([f"# {record['api_name']}", "", *lines])


def _records(path: Path) -> Iterator[Record | Broken]:
    """An object that fills the file, or a dump's records."""
    if path.suffix.lower() == ".json" and path.stat().st_size <= LARGEST_RECORD:
        try:
            value = orjson.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
        except orjson.JSONDecodeError:
            value = None
        if isinstance(value, dict):
            return iter([Record(1, 0, value)])
    return read_dump(path)


def _first(record: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    return next((record[key].strip() for key in keys if isinstance(record.get(key), str)), "")


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
