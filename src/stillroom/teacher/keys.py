"""The API key: from the environment or a file outside the checkout, and never anywhere else."""

from __future__ import annotations

import os
from pathlib import Path

from stillroom.errors import ParamsError
from stillroom.params import Endpoint


def api_key(endpoint: Endpoint) -> str | None:
    """The key, None where there is none.

    Raises ParamsError on a key file that is absent or inside the checkout.
    """
    if key := os.environ.get(endpoint.api_key_env, "").strip():
        return key
    if endpoint.api_key_file is None:
        return None
    path = Path(endpoint.api_key_file).expanduser()
    where = f"params.yaml: endpoint.api_key_file: {path}"
    if path.resolve().is_relative_to(Path.cwd().resolve()):
        raise ParamsError(
            "a key inside the checkout is soon committed", where=where, hint="keep it elsewhere"
        )
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError as error:
        raise ParamsError(f"the key cannot be read ({error.strerror})", where=where) from None


def redacted(text: str, secret: str | None) -> str:
    """The text without the key."""
    return text.replace(secret, "***") if secret else text
