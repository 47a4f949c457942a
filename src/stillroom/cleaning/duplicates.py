"""Conversations that were there before: by their id, or by their human turns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from stillroom.artifacts import canonical_json
from stillroom.cleaning.turns import without_answers
from stillroom.records import Conversation

Check = Callable[[Conversation], str | None]


def same_id() -> Check:
    """Says so of the second and every later conversation with an id."""
    return _seen(lambda c: c.id.encode(), "an earlier record has the id {}")


def same_turns() -> Check:
    """Says so of a conversation whose system message and human turns another one had, and of which."""
    return _seen(lambda c: canonical_json(without_answers(c.messages)), "the human turns of {}")


def _seen(content: Callable[[Conversation], bytes], words: str) -> Check:
    """A check that remembers, with 16 bytes and an id for each conversation that it let pass."""
    first: dict[bytes, str] = {}

    def check(conversation: Conversation) -> str | None:
        digest = hashlib.blake2b(content(conversation), digest_size=16).digest()
        if digest in first:
            return words.format(first[digest])
        first[digest] = conversation.id
        return None

    return check
