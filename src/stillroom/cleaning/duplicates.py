"""Conversations that were there before: by their id, or by their human turns.

A check remembers every conversation that it let pass, in a table on disk. What conversations are compared by
(id, digest) is made where they are cleaned, so that a check is a lookup and one process can do them all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from stillroom.artifacts import canonical_json
from stillroom.cleaning.scratch import Cleaned, Place, Scratch
from stillroom.cleaning.turns import without_answers
from stillroom.records import Message

Check = Callable[[Cleaned, Place], str | None]
"""says what a conversation is a duplicate of; None lets it pass"""


def digest(messages: Sequence[Message]) -> bytes:
    """16 bytes that conversations with the same system message and human turns share."""
    return hashlib.blake2b(canonical_json(without_answers(tuple(messages))), digest_size=16).digest()


def same_id(scratch: Scratch) -> Check:
    """Says so of the second and every later conversation with an id."""
    scratch.database.execute("CREATE TABLE ids (id TEXT PRIMARY KEY) WITHOUT ROWID")
    insert = "INSERT OR IGNORE INTO ids VALUES (?)"

    def check(conversation: Cleaned, _place: Place) -> str | None:
        new = scratch.database.execute(insert, (conversation.id,)).rowcount
        return None if new else f"an earlier record has the id {conversation.id}"

    return check


def same_turns(scratch: Scratch) -> Check:
    """Says so of a conversation whose system message and human turns another one had, and of which."""
    scratch.database.execute("CREATE TABLE turns (digest BLOB PRIMARY KEY, id TEXT) WITHOUT ROWID")

    def check(conversation: Cleaned, _place: Place) -> str | None:
        execute, key = scratch.database.execute, conversation.digest
        if execute("INSERT OR IGNORE INTO turns VALUES (?, ?)", (key, conversation.id)).rowcount:
            return None
        (first,) = execute("SELECT id FROM turns WHERE digest = ?", (key,)).fetchone()
        return f"the human turns of {first}"

    return check
