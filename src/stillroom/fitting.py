"""Examples made of many documents: as many as the context holds.

drafts ──▶ fitted ──▶ conversations within a limit of tokens, in the drafts' order
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from stillroom.chat_format import ChatFormat, Tokenizer, encode
from stillroom.records import Conversation

BATCH = 256
"""drafts that are tokenised together"""


@dataclass(frozen=True)
class Draft:
    """An example that `build(n)` writes with n documents, from `most` down to `fewest`."""

    build: Callable[[int], Conversation]
    most: int
    fewest: int


@dataclass(frozen=True)
class Fit:
    """A draft as it fits: no conversation where even the fewest documents do not."""

    conversation: Conversation | None
    documents: int
    tokens: int


def fitted(
    drafts: Iterable[Draft], limit: int, chat: ChatFormat, tokenizer: Tokenizer, *, prompt: bool = False
) -> Iterator[Fit]:
    """Each draft with about as many documents as `limit` tokens hold; `prompt` does not count the answer."""
    remaining = iter(drafts)
    while batch := list(islice(remaining, BATCH)):
        yield from _fit(batch, limit, lambda rows: _lengths(rows, chat, tokenizer, prompt))


def _fit(batch: list[Draft], limit: int, measure: Callable[[list[Conversation]], list[int]]) -> list[Fit]:
    """Write all drafts, then write those that are too long with fewer documents, until none is."""
    fits = [Fit(None, draft.most, 0) for draft in batch]
    pending = list(range(len(batch)))
    while pending:
        rows = [batch[i].build(fits[i].documents) for i in pending]
        retry = []
        for i, row, tokens in zip(pending, rows, measure(rows), strict=True):
            count, fewest = fits[i].documents, batch[i].fewest
            if tokens <= limit:
                fits[i] = Fit(row, count, tokens)
            elif count > fewest:
                fits[i] = Fit(None, max(fewest, min(count - 1, count * limit // tokens)), tokens)
                retry.append(i)
            else:
                fits[i] = Fit(None, count, tokens)
        pending = retry
    return fits


def _lengths(rows: list[Conversation], chat: ChatFormat, tokenizer: Tokenizer, prompt: bool) -> list[int]:
    turns = [row.messages[:-1] if prompt else row.messages for row in rows]
    return [len(encoded.ids) for encoded in encode(chat, tokenizer, turns, prompt=prompt)]
