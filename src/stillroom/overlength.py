"""Records that are longer than a row: cut in the middle, or split between exchanges.

messages, limit, measure ──▶ trimmed ──▶ messages | None        ──▶ split ──▶ parts, exchanges too long alone

`measure` counts the tokens of messages. Neither ever cuts an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stillroom.records import Message

Measure = Callable[[Sequence[Message]], int]

CUT = "\n[…]\n"
"""stands where the middle of a text was cut"""


def trimmed(messages: Sequence[Message], limit: int, measure: Measure) -> list[Message] | None:
    """The messages with the middle of the longest user text cut so that all take at most `limit` tokens.

    Beginning and end of the text stay, as many characters of either: a request stands at one of them, the
    document between. None where even without the text the messages are too long.
    """
    users = [i for i, message in enumerate(messages) if message.role == "user"]
    if not users:
        return None
    at = max(users, key=lambda i: len(messages[i].content))
    text = messages[at].content

    def shortened(kept: int) -> list[Message]:
        half = kept // 2
        short = text if kept == len(text) else text[:half] + CUT + text[len(text) - half :]
        return [*messages[:at], Message("user", short), *messages[at + 1 :]]

    rest = measure([*messages[:at], Message("user", ""), *messages[at + 1 :]])
    kept = len(text) if rest < limit else 0
    while kept > 0:
        tried = shortened(kept)
        size = measure(tried)
        if size <= limit:
            return tried
        kept = min(kept * max(limit - rest, 0) // (size - rest), kept - 2)
    return None


def split(messages: Sequence[Message], limit: int, measure: Measure) -> tuple[list[list[Message]], int]:
    """Parts of at most `limit` tokens, as few as in-order filling makes, and how many exchanges fit in none.

    A part is the system messages that the conversation begins with, then whole exchanges (what a user says
    up to the answer's end), so that it begins with a user's turn and no answer is parted from its question.
    """
    system, exchanges = parted(messages)
    parts: list[list[Message]] = []
    lost = start = 0

    def part(end: int) -> list[Message]:
        return [*system, *(message for exchange in exchanges[start:end] for message in exchange)]

    while start < len(exchanges):
        fits, over = start, len(exchanges) + 1
        while over - fits > 1:
            middle = (fits + over) // 2
            fits, over = (middle, over) if measure(part(middle)) <= limit else (fits, middle)
        if fits > start:
            parts.append(part(fits))
        else:
            fits, lost = start + 1, lost + 1
        start = fits
    return parts, lost


def parted(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """The system messages at the beginning, and the exchanges after them."""
    begin = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    exchanges: list[list[Message]] = []
    answered = True
    for message in messages[begin:]:
        if not exchanges or (answered and message.role != "assistant"):
            exchanges.append([])
        exchanges[-1].append(message)
        answered = message.role == "assistant"
    return list(messages[:begin]), exchanges
