"""Plain text, as it is."""

from __future__ import annotations

from pathlib import Path

from stillroom.sources.documents.document import Found, decoded


def read(path: Path) -> list[Found]:
    """The file. Raises InputError where it is not text."""
    return [Found(decoded(path))]
