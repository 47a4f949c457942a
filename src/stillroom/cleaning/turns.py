"""The order of turns: empty ones, and those that do not alternate."""

from __future__ import annotations

import itertools

from stillroom.records import Message

Messages = tuple[Message, ...]


def cut_at_empty(messages: Messages) -> Messages:
    """The turns before the first empty one; an empty system message is left out."""
    kept: list[Message] = []
    for message in messages:
        if message.content.strip():
            kept.append(message)
        elif message.role != "system":
            break
    return tuple(kept)


def alternating(messages: Messages) -> Messages | str:
    """System message, then user and assistant in turn, without leading answers. A text says what is wrong.

    A dump of human turns only has nothing that could alternate, and is taken as it is.
    """
    start = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
    opening, rest = messages[:start], messages[start:]
    while rest and rest[0].role == "assistant":
        rest = rest[1:]
    if len(opening) > 1:
        return "more than one system message"
    if any(m.role == "system" for m in rest):
        return "a system message in the middle"
    if any(m.role == "assistant" for m in rest):
        for number, (first, second) in enumerate(itertools.pairwise(rest), 1):
            if first.role == second.role:
                return f"turns {number} and {number + 1} are both the {first.role}'s"
    return opening + rest


def without_last_question(messages: Messages) -> Messages:
    """The conversation up to its last answer."""
    while messages and messages[-1].role == "user":
        messages = messages[:-1]
    return messages


def without_answers(messages: Messages) -> Messages:
    """System message and human turns."""
    return tuple(m for m in messages if m.role != "assistant")
