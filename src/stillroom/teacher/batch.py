"""The batch API as a backend: queries ──▶ /v1/batches ──▶ response cache."""

from __future__ import annotations

from collections.abc import Sequence

from stillroom.errors import ParamsError
from stillroom.teacher.requests import Query


class Batches:
    """Buys queries in batches."""

    async def want(self, queries: Sequence[Query]) -> None:
        """Take queries in."""
        raise ParamsError("not there yet", where="params.yaml: endpoint.backend", hint="use online")

    async def collect(self) -> None:
        """Wait for everything wanted."""
