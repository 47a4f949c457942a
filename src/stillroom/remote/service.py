"""A fine-tuning service: its files, jobs and events, and what it refuses.

The openai SDK carries the requests of both dialects: retries, Retry-After, proxies, uploads that stream. A
request that creates a job is sent once: where no answer says whether it arrived, `Unsure` is raised, and
whoever asks looks for the job before sending another. The key is taken out of everything that comes back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import openai
import orjson

from stillroom.errors import EndpointError, ParamsError
from stillroom.params import Endpoint
from stillroom.remote.settings import Remote
from stillroom.teacher.keys import api_key, redacted
from stillroom.teacher.rate_headers import retry_after
from stillroom.teacher.transport import Refused, address, is_local
from stillroom.training.recipe import Recipe

PAGE = 100
"""jobs or events of one answer"""
UNSURE = (408, 409, 425, 429)
"""statuses below 500 after which another try may succeed"""

Values = dict[str, Any]
E = TypeVar("E", bound=EndpointError)


class Gone(EndpointError):
    """There is no such thing (404)."""


class Unsure(EndpointError):
    """No answer, or one that says to come back: the request may have been carried out.

    wait: seconds that the service asks for; None where it does not say.
    """

    wait: float | None = None


@dataclass(frozen=True)
class Job:
    """A fine-tuning job, as both dialects have it."""

    id: str
    status: str
    """the service's word"""
    state: Literal["open", "succeeded", "failed", "cancelled"]
    training_file: str
    model: str | None = None
    """name of the trained model, once there is one"""
    tokens: int | None = None
    """tokens that were trained on, epochs counted, as the service counts them"""
    error: str = ""
    """why it failed, in the service's words"""


@dataclass(frozen=True)
class Event:
    """Something that the service tells about a job."""

    key: str
    message: str
    level: str = "info"
    figures: Mapping[str, float] = field(default_factory=dict)
    """step and what was measured at it: loss, validation_loss, lr, grad_norm; empty for a mere message"""


class Service(ABC):
    """One service at one address.

    Raises ParamsError where it is not named, EndpointError where it refuses or cannot be reached.
    """

    most_bytes: ClassVar[int]
    """of one file"""
    fewest_records: ClassVar[int]

    def __init__(self, settings: Remote, recipe: Recipe, endpoint: Endpoint) -> None:
        reached = settings.reached(endpoint)
        if reached.base_url is None:
            raise ParamsError("the service has no address", where="params.yaml: train.api.base_url")
        if settings.model is None:
            raise ParamsError("which model is to be trained?", where="params.yaml: train.api.model")
        self.settings, self.recipe = settings, recipe
        self.address, self.key_variable = address(reached.base_url), reached.api_key_env
        self._secret = api_key(reached)
        self._client = openai.OpenAI(
            base_url=reached.base_url,
            api_key=self._secret or "none",
            max_retries=reached.max_attempts - 1,
            timeout=reached.timeout,
            http_client=openai.DefaultHttpxClient(trust_env=not is_local(reached.base_url)),
        )

    @abstractmethod
    def request(self) -> Values:
        """The body that creates a job, without its files: with the data, all that decides the outcome."""

    @abstractmethod
    def upload(self, file: Path, name: str) -> str:
        """Upload a training file under a name; return its id."""

    @abstractmethod
    def files(self, name: str, size: int) -> list[str]:
        """Ids of the uploaded files of that name and size in bytes."""

    @abstractmethod
    def create(self, training_file: str, validation_file: str | None) -> Job:
        """Create a job, by a request that is sent once. Raises Unsure where there may be one now."""

    @abstractmethod
    def jobs(self) -> Iterator[Job]:
        """All jobs of the account, the newest first."""

    @abstractmethod
    def job(self, id: str) -> Job:
        """A job as it stands."""

    @abstractmethod
    def events(self, id: str, known: set[str]) -> list[Event]:
        """What is new about a job, in order: events whose key is not known."""

    @abstractmethod
    def cancel(self, id: str) -> None:
        """End a job."""

    def get(self, path: str, **query: Any) -> Values:
        """Ask for something; tried again where that may help."""
        return self._asked("GET", path, {"params": query})

    def get_one(self, path: str) -> Values:
        """Ask for a thing with an id."""
        return self._named(self.get(path))

    def post(self, path: str) -> None:
        """Send a request without a body; tried again where that may help."""
        self._asked("POST", path, {})

    def post_once(self, path: str, body: Values) -> Values:
        """Send what must not be sent twice, and return the thing that it made."""
        return self._named(self._asked("POST", path, {"max_retries": 0}, body=body))

    def post_file(self, path: str, file: Path, name: str, **fields: str) -> str:
        """Send a file and some fields as a form, and return the file's id; the file is streamed."""
        with file.open("rb") as content:
            options = {"headers": {"Content-Type": "multipart/form-data"}}
            part = {"file": (name, content, "application/jsonl")}
            return str(self._named(self._asked("POST", path, options, body=fields, files=part))["id"])

    def pages(self, path: str, **query: Any) -> Iterator[Values]:
        """The entries of a list, page by page where the service has pages."""
        while True:
            page = self.get(path, **query)
            entries = page.get("data") or []
            yield from entries
            if not entries or not page.get("has_more"):
                return
            query["after"] = entries[-1].get("id")

    def _asked(self, method: str, path: str, options: Any, **sent: Any) -> Values:
        """What the service answers, without the key."""
        try:
            if method == "GET":
                value = self._client.get(path, cast_to=object, options=options)
            else:
                value = self._client.post(path, cast_to=object, options=options, **sent)
        except openai.APIStatusError as error:
            raise self._refused(error) from None
        except openai.APIConnectionError as error:
            words = (
                "timed out" if isinstance(error, openai.APITimeoutError) else str(error.__cause__ or error)
            )
            hint = "is the service up, and its address right? Run again to go on"
            raise self._error(f"no answer ({words})", hint, Unsure) from None
        if not isinstance(value, dict):
            raise self._strange(value)
        plain: Values = orjson.loads(redacted(orjson.dumps(value).decode(), self._secret))
        return plain

    def _named(self, value: Values) -> Values:
        if not isinstance(value.get("id"), str):
            raise self._strange(value)
        return value

    def _strange(self, value: object) -> EndpointError:
        what = f"not an answer of such an API: {str(value)[:200]!r}"
        return self._error(what, "is the dialect right, and does base_url end in /v1?", EndpointError)

    def _refused(self, error: openai.APIStatusError) -> EndpointError:
        """A refusal in the service's own words."""
        response = error.response
        said = Refused(error.status_code, {}, response.content, response.reason_phrase)
        if said.code == "insufficient_quota":
            return self._error(str(said), "the account has no credit", EndpointError)
        if said.status >= 500 or said.status in UNSURE:
            unsure = self._error(str(said), "run again to go on", Unsure)
            unsure.wait = retry_after(response.headers)
            return unsure
        elsewhere = f"is the service of the dialect {self.settings.dialect!r}, and does base_url end in /v1?"
        hints = {
            401: f"put a valid key into the environment variable {self.key_variable}",
            402: "the account has no credit",
            403: f"the key in {self.key_variable} may not do this",
            404: elsewhere,
            405: elsewhere,
        }
        hint = hints.get(said.status, "see params.yaml: train.api")
        return self._error(str(said), hint, Gone if said.status == 404 else EndpointError)

    def _error(self, what: str, hint: str, kind: type[E]) -> E:
        line = " ".join(redacted(what, self._secret).split())[:300]
        return kind(line, where=self.address, hint=hint)
