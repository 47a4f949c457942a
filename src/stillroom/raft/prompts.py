"""The words in which a teacher is asked: the built-in ones, or those of a file in prompts/.

prompts/NAME.yaml ──▶ load ──▶ Prompts ──▶ messages that ask for questions, and for an answer

    questions:
      - system: You write questions for an examination about {title}.
      - user: "{passage}\n\nWrite {count} questions, one per line."
    answers: "…"                # a text by itself is one user message

`questions` must hold {passage} and {count}; `answers` {passage}, {question} and the marks of a quoted answer;
{title} is the document's. A brace that is meant is doubled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from stillroom.errors import ParamsError
from stillroom.raft.pairs import Chunk
from stillroom.records import ROLES, Message
from stillroom.teacher.prompts import (
    ANSWER_TAG,
    ANSWERS,
    PLACEHOLDER,
    QUESTIONS,
    QUOTE_BEGIN,
    QUOTE_END,
    filled,
)

KNOWN = {"questions": {"passage", "title", "count"}, "answers": {"passage", "title", "question"}}
NEEDED = {"questions": {"passage", "count"}, "answers": {"passage", "question"}}
MARKS = (QUOTE_BEGIN, QUOTE_END, ANSWER_TAG)
"""without them in the prompt, no answer would have them"""


@dataclass(frozen=True, slots=True)
class Prompts:
    """Templates of the two requests."""

    questions: tuple[Message, ...] = (Message("user", QUESTIONS),)
    answers: tuple[Message, ...] = (Message("user", ANSWERS),)

    def ask_questions(self, chunk: Chunk, count: int) -> tuple[Message, ...]:
        """Ask for `count` questions that the passage answers."""
        values = {"passage": chunk.text, "title": chunk.title, "count": count}
        return tuple(Message(m.role, filled(m.content, **values)) for m in self.questions)

    def ask_answer(self, chunk: Chunk, question: str) -> tuple[Message, ...]:
        """Ask for the answer to a question about the passage."""
        values = {"passage": chunk.text, "title": chunk.title, "question": question}
        return tuple(Message(m.role, filled(m.content, **values)) for m in self.answers)


def load(folder: Path, name: str | None) -> Prompts:
    """The prompts of a file, or the built-in ones where there is no name.

    Raises ParamsError naming file and line.
    """
    if name is None:
        return Prompts()
    path = folder / name
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        there = ", ".join(sorted(p.name for p in folder.glob("*.yaml"))) or "none"
        raise ParamsError("no such file", where=f"raft.prompts: {path}", hint=f"there is: {there}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"not valid YAML: {error}", where=str(path)) from None
    given = {key.value: node for key, node in root.value} if isinstance(root, yaml.MappingNode) else {}
    if given.keys() != NEEDED.keys():
        found = ", ".join(given) or "none"
        raise ParamsError(
            f"the keys `questions` and `answers` were expected, found: {found}", where=str(path)
        )
    return Prompts(**{part: _turns(node, part, path) for part, node in given.items()})


def _turns(node: yaml.Node, part: str, path: Path) -> tuple[Message, ...]:
    """The messages of one request, checked."""
    turns = list(_messages(node, part, path))
    placeholders = {name for _, text in turns for name in _placeholders(text, part, path)}
    where = f"{path}:{_line(node)}: {part}"
    if missing := sorted(NEEDED[part] - placeholders):
        raise ParamsError(f"the placeholder {{{missing[0]}}} is missing", where=where)
    if turns[-1][0] != "user":
        raise ParamsError("the last message must be the user's", where=where)
    words = "".join(text.value for _, text in turns)
    if part == "answers" and (absent := [mark for mark in MARKS if mark not in words]):
        hint = f"an answer must quote between {QUOTE_BEGIN} and {QUOTE_END} and end with `{ANSWER_TAG} …`"
        raise ParamsError(f"the prompt does not ask for `{absent[0]}`", where=where, hint=hint)
    return tuple(Message(role, text.value) for role, text in turns)  # type: ignore[arg-type]  # of ROLES


def _messages(node: yaml.Node, part: str, path: Path) -> Iterator[tuple[str, yaml.ScalarNode]]:
    """(role, text) of each message."""
    if isinstance(node, yaml.ScalarNode):
        yield "user", node
        return
    for turn in node.value if isinstance(node, yaml.SequenceNode) and node.value else [node]:
        pair = turn.value[0] if isinstance(turn, yaml.MappingNode) and len(turn.value) == 1 else None
        if pair is None or pair[0].value not in ROLES or not isinstance(pair[1], yaml.ScalarNode):
            what = f"a text was expected, or a list of messages such as `- {' | '.join(ROLES)}: text`"
            raise ParamsError(what, where=f"{path}:{_line(turn)}: {part}")
        yield pair[0].value, pair[1]


def _placeholders(text: yaml.ScalarNode, part: str, path: Path) -> Iterator[str]:
    """The placeholders of a text. Raises ParamsError for one that is not known, and for a single brace."""
    for found in PLACEHOLDER.finditer(text.value):
        if found[0] in ("{{", "}}"):
            continue
        if found[1] not in KNOWN[part]:
            known = ", ".join(f"{{{name}}}" for name in sorted(KNOWN[part]))
            hint = f"known here: {known}; a brace that is meant is written twice: {{{{ or }}}}"
            where = f"{path}:{_line(text, found.start())}: {part}"
            raise ParamsError(f"unknown placeholder {found[0]}", where=where, hint=hint)
        yield found[1]


def _line(node: yaml.Node, position: int = 0) -> int:
    """The line (from 1) where a node begins; in a literal block, the line of that character."""
    first: int = node.start_mark.line + 1
    if isinstance(node, yaml.ScalarNode) and node.style == "|":
        first += 1 + str(node.value).count("\n", 0, position)
    return first
