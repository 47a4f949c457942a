"""What every reader of questions shares: what it yields, and the record that it reads it from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from stillroom.errors import InputError


class Passage(NamedTuple):
    """A short text on one line, with the title of the page that it is from."""

    title: str
    text: str

    @property
    def whole(self) -> str:
        """What is searched: both."""
        return f"{self.title} {self.text}"


class Origin(NamedTuple):
    """Where something stands: the file, with the folder that is read, and its record there, from 1.

    Of a file that is one object (SQuAD), its paragraph there.
    """

    file: str
    record: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as a source asks it."""

    text: str
    answers: tuple[str, ...]
    gold: Passage | None
    """the passage that holds an answer, where the source names one"""
    others: tuple[Passage, ...] = ()
    """passages that the source gives as wrong, the likeliest first"""
    gold_index: int | None = None
    """the gold one's place among the others (from 0), where the source gives them as a prompt has them"""
    id: str = ""
    """the source's own"""
    paragraph: int | None = None
    """from 1, where the record is a whole file"""


class Source(NamedTuple):
    """Where a question is from."""

    file: str
    record: int
    shape: str
    """the adapter's name"""
    id: str
    """the source's own; empty where it has none"""


class Record(NamedTuple):
    """A JSON object of a file."""

    where: str
    """for errors: file and number"""
    value: dict[str, Any]

    def text(self, name: str) -> str:
        """A field that must be a text. Raises InputError."""
        value = self.value.get(name)
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"`{name}` must be a text (got {repr(value)[:60]})", where=self.where)
        return value.strip()

    def texts(self, name: str) -> list[str]:
        """A field that must be a list of texts. Raises InputError."""
        values = self.value.get(name)
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise InputError(f"`{name}` must be a list of texts", where=self.where)
        return values

    def objects(self, name: str) -> list[Record]:
        """A field that must be a list of objects. Raises InputError."""
        values = self.value.get(name)
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise InputError(f"`{name}` must be a list of objects", where=self.where)
        return [Record(f"{self.where}: {name}[{i}]", value) for i, value in enumerate(values)]

    def own_id(self) -> str:
        """What the source calls it; empty where it does not."""
        value = self.value.get("id")
        return str(value) if isinstance(value, str | int) else ""


@dataclass(frozen=True)
class QuestionAdapter:
    """One shape of questions. read: those of a record; raises InputError, naming record and field."""

    name: str
    fits: Callable[[dict[str, Any]], bool]
    read: Callable[[Record], Iterator[Asked]]


def passage(record: Record) -> Passage:
    """The passage in an object with `text` and, where it has one, a `title`. Raises InputError."""
    title = record.value.get("title")
    return Passage(one_line(title) if isinstance(title, str) else "", one_line(record.text("text")))


def one_line(text: str) -> str:
    """A text without line breaks, which would end a document of a prompt."""
    return " ".join(text.splitlines()).strip()
