"""The API key: from the environment or a file outside the checkout, and never anywhere else."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.errors import ParamsError
from stillroom.params import Endpoint

if TYPE_CHECKING:
    from stillroom.teacher.cache import Row

ECHOES = ("text", "finish_reason", "served_model", "fingerprint", "request_id", "response_id", "response")
"""the columns of a row that the endpoint writes"""


def api_key(endpoint: Endpoint) -> str | None:
    """The key, None where there is none.

    Raises ParamsError on a key file that is absent or inside the checkout, and on a key that is none.
    """
    if key := os.environ.get(endpoint.api_key_env, "").strip():
        return _checked(key, endpoint.api_key_env)
    if endpoint.api_key_file is None:
        return None
    path = Path(endpoint.api_key_file).expanduser()
    where = f"params.yaml: endpoint.api_key_file: {path}"
    if path.resolve().is_relative_to(Path.cwd().resolve()):
        raise ParamsError(
            "a key inside the checkout is soon committed", where=where, hint="keep it elsewhere"
        )
    try:
        return _checked(path.read_text(encoding="utf-8").strip(), str(path)) or None
    except OSError as error:
        raise ParamsError(f"the key cannot be read ({error.strerror})", where=where) from None


def _checked(key: str, where: str) -> str:
    """The key. Raises ParamsError, which does not show it, where it cannot be sent in a header."""
    if not key.isascii() or not key.isprintable() or " " in key:
        hint = "it is one word of ASCII characters: is there more in it, a second line?"
        raise ParamsError("this is not an API key", where=where, hint=hint)
    return key


def redacted(text: str, secret: str | None) -> str:
    """The text without the key."""
    return text.replace(secret, "***") if secret else text


def without(secret: str | None, row: Row) -> Row:
    """A row without the key, should the endpoint have echoed it. Its request is ours and stays as it is."""
    if not secret:
        return row
    echoes = {name: text for name in ECHOES if secret in (text := getattr(row, name) or "")}
    changes: dict[str, Any] = {name: redacted(text, secret) for name, text in echoes.items()}
    return replace(row, **changes) if changes else row
