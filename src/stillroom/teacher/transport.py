"""The way to an OpenAI-compatible endpoint for what is asked by the thousand.

Query ──▶ Transport.post ──▶ (body, headers), or Refused, or Unanswered

aiohttp and nothing else: through the openai SDK a request takes three times the CPU, and its import half a
second (benchmarks/teacher.py). The SDK does what is asked once in a while: see `stillroom.teacher.batch`.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import aiohttp
import certifi
import orjson
from yarl import URL

if TYPE_CHECKING:
    from stillroom.teacher.requests import Query

LOCAL = ("127.0.0.1", "localhost", "::1")
ACCOUNT = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
"""headers that say whom to bill, and the SDK's environment variables for them"""
ERROR = b'{"error":'
"""how an error begins that is sent with status 200: gateways do so where the model failed after a while"""
NEVER_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


class Refused(Exception):
    """A response that is not a success. `status`: its own, or where that claims success that of its body."""

    def __init__(self, status: int, headers: Mapping[str, str], content: bytes, reason: str | None) -> None:
        said = _parsed(content)
        error = said.get("error", said) if isinstance(said, dict) else said
        fields = error if isinstance(error, dict) else {"message": error}
        self.code = fields.get("code")
        """the vendor's word for the error"""
        self.status = status if status >= 400 else _status(self.code)
        self.headers = {**_said_in(fields), **{name.lower(): value for name, value in headers.items()}}
        """by their names in lower case, and those that OpenRouter sends in the body"""
        self.message = str(fields.get("message") or fields.get("detail") or reason or "no reason given")
        super().__init__(f"{self.status}: {self.message}")


class Unanswered(Exception):
    """No response: unreachable, reset or timed out. `billed`: it may have reached the model all the same."""

    def __init__(self, error: Exception) -> None:
        self.billed = not isinstance(error, NEVER_SENT)
        super().__init__(
            "timed out" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        )


class Transport:
    """Connections to one endpoint; made inside of a running event loop, closed by `close`.

    secret: the API key. timeout: seconds of a request, from its first byte to the answer's last.
    """

    def __init__(self, base_url: str, secret: str | None, timeout: float) -> None:
        self._base = base_url.rstrip("/")
        trusted = ssl.create_default_context()  # the system's, or SSL_CERT_FILE
        trusted.load_verify_locations(certifi.where())
        account = {name: os.environ[variable] for name, variable in ACCOUNT.items() if variable in os.environ}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=trusted),
            headers={
                "Authorization": f"Bearer {secret or 'none'}",
                "Content-Type": "application/json",
                "User-Agent": "stillroom",
                **account,
            },
            timeout=aiohttp.ClientTimeout(total=timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=not is_local(base_url),
        )
        self._urls: dict[str, URL] = {}

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def post(self, query: Query) -> tuple[bytes, Mapping[str, str]]:
        """The response's body and headers. Raises Refused or Unanswered."""
        url = self._urls.get(query.path) or self._urls.setdefault(query.path, URL(self._base + query.path))
        try:
            async with self._session.post(url, data=orjson.dumps(query.body)) as response:
                content = await response.read()
        except (TimeoutError, aiohttp.ClientError) as error:
            raise Unanswered(error) from error
        if not response.ok or content.startswith(ERROR):
            raise Refused(response.status, response.headers, content, response.reason)
        return content, response.headers


def address(base_url: str) -> str:
    """A base URL without user and password, as it may be shown and kept."""
    return str(URL(base_url).with_user(None))


def is_local(base_url: str) -> bool:
    """Whether an endpoint is on this machine, where no proxy is asked."""
    return URL(base_url).host in LOCAL


def _status(code: object) -> int:
    """The status that an error's code is; of another code, that of a gateway whose server failed."""
    return code if isinstance(code, int) and 400 <= code < 600 else 502


def _said_in(error: dict[str, Any]) -> dict[str, str]:
    """The headers that an error's metadata has."""
    metadata = error.get("metadata")
    said = metadata.get("headers") if isinstance(metadata, dict) else None
    return {name.lower(): str(value) for name, value in said.items()} if isinstance(said, dict) else {}


def _parsed(content: bytes) -> object:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
