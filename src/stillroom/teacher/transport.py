"""The way to an OpenAI-compatible endpoint: the SDK's client, and a faster `post` beside it.

Query ──▶ Transport.post ──▶ (body, headers), or the SDK's errors

Address, key and headers are the SDK's, and so is what is not asked by the thousand (`sdk`: files, batches).
Completions go over aiohttp itself: in the SDK one takes three times the CPU (benchmarks/teacher.py).
"""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp
import httpx2
import openai
import orjson
from yarl import URL

from stillroom.teacher.requests import Query

PATHS = ("/chat/completions", "/completions")
LOCAL = ("127.0.0.1", "localhost", "::1")


class Transport:
    """Connections to one endpoint; made inside of a running event loop, closed by `close`.

    secret: the API key. timeout: seconds of a request, from the first byte sent to the last one read.
    """

    def __init__(self, base_url: str, secret: str | None, timeout: float) -> None:
        url = httpx2.URL(base_url)
        self.address = str(url.copy_with(userinfo=b""))
        """the base URL, without user or password"""
        proxied = url.host not in LOCAL
        trusted = httpx2.create_ssl_context()
        self.sdk = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=secret or "none",
            max_retries=0,
            timeout=timeout,
            http_client=openai.DefaultAsyncHttpxClient(trust_env=proxied, timeout=timeout, verify=trusted),
        )
        headers = {**self.sdk.default_headers, **self.sdk.auth_headers}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=trusted),
            headers={name: value for name, value in headers.items() if isinstance(value, str)},
            timeout=aiohttp.ClientTimeout(total=timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=proxied,
        )
        self._urls = {path: URL(str(self.sdk.base_url.join(path.lstrip("/")))) for path in PATHS}

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()
        await self.sdk.close()

    async def post(self, query: Query) -> tuple[bytes, Mapping[str, str]]:
        """The response's body and headers. Raises the SDK's errors."""
        url = self._urls[query.path]
        try:
            async with self._session.post(url, data=orjson.dumps(query.body)) as response:
                content = await response.read()
                status, headers = response.status, response.headers
        except TimeoutError as error:
            raise openai.APITimeoutError(httpx2.Request("POST", str(url))) from error
        except aiohttp.ClientError as error:
            raise openai.APIConnectionError(request=httpx2.Request("POST", str(url))) from error
        if status < 300:
            return content, headers
        raise _status_error(str(url), status, headers, content)


def may_be_billed(error: openai.APIError) -> bool:
    """Whether a request without an answer (timed out, reset) may have reached the model."""
    never_sent = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
    return isinstance(error, openai.APIConnectionError) and not isinstance(error.__cause__, never_sent)


def _status_error(url: str, status: int, headers: Mapping[str, str], content: bytes) -> openai.APIStatusError:
    """The SDK's error for a response that is not a success, with what the server says."""
    try:
        said = orjson.loads(content)
    except orjson.JSONDecodeError:
        said = None
    body = said.get("error", said) if isinstance(said, dict) else said
    kept = {name: value for name, value in headers.items() if name.lower() != "content-encoding"}
    request = httpx2.Request("POST", url)
    response = httpx2.Response(status, headers=kept, content=content, request=request)
    return openai.APIStatusError(f"{status}: {body}", response=response, body=body)
