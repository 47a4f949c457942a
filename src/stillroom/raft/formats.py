"""Examples as files hold them: conversations, recipe C's records, and data sets for other trainers.

Plan ──▶ conversation      Plan ──▶ record ──▶ Export: hf, completion, chat, eval as JSON Lines or Parquet

The shapes of the export are those of RAFT's own tool (Gorilla, raft/format.py); `completion` and `chat` hold
the documents, `eval` the held-out examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Literal

import orjson
import yaml

from stillroom.raft.plans import Plan
from stillroom.records import Conversation, Message

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

Format = Literal["hf", "completion", "chat", "eval"]
FileType = Literal["jsonl", "parquet"]
ROWS = 1000
"""of a row group"""


def instruction(passages: Iterable[str], question: str) -> str:
    """The passages, one a line in recipe C's marks, and the question."""
    return "".join(f"<DOCUMENT>{text}</DOCUMENT>\n" for text in passages) + question


def conversation(plan: Plan, count: int) -> Conversation:
    """The example with `count` passages."""
    pair, shown = plan.pair, plan.context(count)
    turn: dict[str, Any] = {"question_key": pair.question_key, "key": pair.answer_key}
    if pair.repaired:
        turn["repaired"] = pair.repaired
    meta = {
        "question": pair.question,
        "oracle": "" if plan.refusal else pair.chunk.text,
        "document": pair.chunk.document,
        "source": pair.chunk.source,
        "chunk": pair.chunk.id,
        "answer": plan.answer,
        "refusal": plan.refusal,
        "oracle_shown": plan.oracle,
        "distractors": [chunk.id for chunk in shown if chunk.id != pair.chunk.id],
        "turns": [turn],
        "group": pair.chunk.document,
    }
    asked = instruction((chunk.text for chunk in shown), pair.question)
    messages = (Message("user", asked), Message("assistant", plan.cot_answer))
    return Conversation(pair.id, "raft", messages, meta)


def record(number: int, plan: Plan, count: int) -> dict[str, Any]:
    """The example in recipe C's shape; the lists of `context` are nested as RAFT publishes them."""
    shown = plan.context(count)
    return {
        "id": f"seed_task_{number:06}",
        "type": "general",
        "question": plan.pair.question,
        "context": {"title": [[c.title for c in shown]], "sentences": [[c.text for c in shown]]},
        "oracle_context": "" if plan.refusal else plan.pair.chunk.text,
        "cot_answer": plan.cot_answer,
        "instruction": instruction((c.text for c in shown), plan.pair.question),
    }


CARD = """# RAFT examples

Questions about documents, among passages that may answer them, with answers that quote the right one
(RAFT, arXiv:2403.10131). `eval` is of documents that the others do not hold. Made by stillroom's `raft`,
whose setting `raft.formats` names what is here.
"""


class Export:
    """Writes records as `folder`/FORMAT.FILE_TYPE, row by row, and a card with which `datasets` finds them.

    system: system prompt of the chat format. The same records give the same bytes.
    """

    def __init__(
        self, folder: Path, formats: Sequence[Format], file_type: FileType, system: str | None
    ) -> None:
        self._system = system
        found = [{"config_name": name, "data_files": f"{name}.{file_type}"} for name in formats]
        head = f"---\n{yaml.safe_dump({'configs': found}, sort_keys=False)}---\n\n" if found else ""
        (folder / "README.md").write_text(head + CARD, encoding="utf-8")
        self._sinks = {name: (_Jsonl if file_type == "jsonl" else _Parquet)(folder, name) for name in formats}

    def __enter__(self) -> Export:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sink in self._sinks.values():
            sink.close()

    def add(self, record: dict[str, Any], *, held_out: bool) -> None:
        """Write a record to the formats that it is for: `eval` where it is held out, else the others."""
        for name, sink in self._sinks.items():
            if (name == "eval") == held_out:
                sink.write(_shaped(record, name, self._system))


def _shaped(record: dict[str, Any], name: Format, system: str | None) -> dict[str, Any]:
    """A record in one of the formats."""
    asked, answer = record["instruction"], record["cot_answer"]
    if name == "completion":
        return {"prompt": asked, "completion": answer}
    if name == "chat":
        opening = [{"role": "system", "content": system}] if system else []
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        return {"messages": opening + turns}
    if name == "eval":
        (sentences,) = record["context"]["sentences"]
        return {"question": record["question"], "answer": answer, "context": "\n".join(sentences)}
    return record


class _Jsonl:
    """A JSON Lines file."""

    def __init__(self, folder: Path, name: Format) -> None:
        self._file: IO[bytes] = (folder / f"{name}.jsonl").open("wb")

    def write(self, row: dict[str, Any]) -> None:
        self._file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """A Parquet file, which has its columns even without rows."""

    def __init__(self, folder: Path, name: Format) -> None:
        import pyarrow.parquet as pq

        self._schema = _schema(name)
        self._writer: pq.ParquetWriter = pq.ParquetWriter(folder / f"{name}.parquet", self._schema)
        self._rows: list[dict[str, Any]] = []

    def write(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows = []


def _schema(name: Format) -> pa.Schema:
    import pyarrow as pa

    text = pa.string()
    nested = pa.list_(pa.list_(text))
    columns: dict[str, dict[str, Any]] = {
        "hf": {
            "id": text,
            "type": text,
            "question": text,
            "context": pa.struct({"title": nested, "sentences": nested}),
            "oracle_context": text,
            "cot_answer": text,
            "instruction": text,
        },
        "completion": {"prompt": text, "completion": text},
        "chat": {"messages": pa.list_(pa.struct({"role": text, "content": text}))},
        "eval": {"question": text, "answer": text, "context": text},
    }
    return pa.schema(columns[name])
