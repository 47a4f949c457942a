"""Examples made of many documents: as many as the context holds.

drafts ──▶ fitted ──▶ conversations within a limit of tokens, in the drafts' order
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from stillroom.chat_format import BATCH_CHARACTERS, ChatFormat, Tokenizer, codec, encode_rows
from stillroom.records import Conversation
from stillroom.tokenising import Words


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
    """Each draft with about as many documents as `limit` tokens hold; `prompt` does not count the answer.

    Drafts are tokenised in batches of about BATCH_CHARACTERS: memory does not grow with their number.
    """
    table = Words(codec(tokenizer))

    def lengths(rows: list[Conversation]) -> list[int]:
        turns = [row.messages[:-1] if prompt else row.messages for row in rows]
        bounds = encode_rows(chat, tokenizer, turns, table, prompt=prompt).bounds
        return [int(length) for length in np.diff(bounds)]

    for batch in _batches(drafts):
        yield from _fit(batch, limit, lengths)


def _batches(drafts: Iterable[Draft]) -> Iterator[list[tuple[Draft, Conversation]]]:
    """The drafts, each with all its documents."""
    batch: list[tuple[Draft, Conversation]] = []
    characters = 0
    for draft in drafts:
        whole = draft.build(draft.most)
        batch.append((draft, whole))
        characters += sum(len(message.content) for message in whole.messages)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _fit(
    batch: list[tuple[Draft, Conversation]], limit: int, lengths: Callable[[list[Conversation]], list[int]]
) -> list[Fit]:
    """Write those that are too long with fewer documents, until none is."""
    fits = [Fit(None, draft.most, 0) for draft, _ in batch]
    written = {i: whole for i, (_, whole) in enumerate(batch)}
    while written:
        retry = {}
        for (i, row), tokens in zip(written.items(), lengths(list(written.values())), strict=True):
            draft, count = batch[i][0], fits[i].documents
            if tokens <= limit:
                fits[i] = Fit(row, count, tokens)
            elif count > draft.fewest:
                fewer = max(draft.fewest, min(count - 1, count * limit // tokens))
                fits[i] = Fit(None, fewer, tokens)
                retry[i] = draft.build(fewer)
            else:
                fits[i] = Fit(None, count, tokens)
        written = retry
    return fits
