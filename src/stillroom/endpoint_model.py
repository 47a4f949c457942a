"""A model that answers at an endpoint: `models/NAME/endpoint.json`, where other folders hold weights.

    {
      "base_url": "https://api.example.org/v1",
      "api_key_env": "OPENAI_API_KEY",
      "model": "ft:gpt-4o-mini:example::BvQ2",
      "api": "chat",
      "trained": {"job": "ftjob-1", "model": "gpt-4o-mini", "settings": {…}, "data": {"train": "9f…"}}
    }

`train` with `backend: api` writes it, `convert` passes it on, and a person may write one for any model that
is to be compared. The key itself stands nowhere: the file names the environment variable that holds it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from stillroom.artifacts import read_json, write_json
from stillroom.errors import InputError
from stillroom.params import Endpoint, Extra, LimitField, Settings, Teacher

FILE = "endpoint.json"


class EndpointModel(Settings):
    """Where a model answers, and by which name."""

    base_url: str
    """an OpenAI-compatible API, without user and password"""
    api_key_env: str = "OPENAI_API_KEY"
    """environment variable that holds the key"""
    model: str
    """name that is sent with every request"""
    api: Literal["chat", "completions"] = "chat"
    """chat sends messages; completions sends the text of common.chat_format"""
    limit_field: LimitField = "max_tokens"
    """what the endpoint calls max_tokens; OpenAI's reasoning models: max_completion_tokens"""
    extra: Extra = {}
    """further fields of a request, e.g. {reasoning_effort: low}; null leaves one of ours out"""
    trained: dict[str, Any] | None = None
    """what it was made of: job, base model, settings, SHA-256 of the data; null where nobody knows"""

    @property
    def teacher(self) -> Teacher:
        """The model as those who ask name it, for `stillroom.teacher.client.Asker`."""
        return Teacher(model=self.model, api=self.api, limit_field=self.limit_field, extra=self.extra)

    def reached(self, endpoint: Endpoint) -> Endpoint:
        """How it is reached: the params' endpoint where that is the same address, else with their limits."""
        from stillroom.teacher.transport import address

        if endpoint.base_url is not None and address(endpoint.base_url) == self.base_url:
            return endpoint
        own = {"base_url": self.base_url, "api_key_env": self.api_key_env, "api_key_file": None}
        return endpoint.model_copy(update=own)

    def write(self, folder: Path) -> None:
        """Write the folder's file."""
        write_json(folder / FILE, self.model_dump())


def find(folder: Path) -> EndpointModel | None:
    """The endpoint model of a folder; None where the folder holds something else.

    Raises InputError where the file is malformed.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        return EndpointModel.model_validate(read_json(path))
    except ValidationError as failure:
        error = failure.errors()[0]
        key = ".".join(map(str, error["loc"]))
        raise InputError(f"{key}: {error['msg'].lower()}" if key else error["msg"], where=str(path)) from None
