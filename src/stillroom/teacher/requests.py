"""What a teacher is asked, what it answered, and the key under which an answer is kept.

Request ──▶ Query (canonical JSON, its SHA-256) ──▶ HTTP response ──▶ cache Row ──▶ Answer

The key is the hash of everything that the teacher sees (its id, messages or prompt, sampling, stop, seed) and
of the sample's index: never of the endpoint's address or the API key. A stage describes what it wants to know
as a dialogue, a generator that yields requests, is sent their answers and returns its result:

    def two_turns() -> Dialogue[str]:
        first = yield Request((Message("user", "Name a river."),), sampling)
        second = yield Request((Message("user", f"Where is {first.text}?"),), sampling)
        return second.text

A request may ask for the likeliest first tokens beside the answer. The row's text is then JSON that holds
both, so that a snapshot, which holds no responses, holds them too:

    {"text": "m", "first": {"m": -0.02, "M": -4.1}}      # token ──▶ log-probability

It may instead ask a `/completions` endpoint how likely the last tokens of a prompt are (`echo`). The row's
text is JSON of just those, the likeliest token's log-probability beside each one's own:

    {"best": [-0.3, -0.01], "own": [-2.5, -0.01]}
"""

from __future__ import annotations

import json
import re
import time
from array import array
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import orjson

from stillroom.artifacts import canonical_json, sha256
from stillroom.chat_format import ChatFormat
from stillroom.errors import EndpointError
from stillroom.params import Sampling, Teacher
from stillroom.records import Message
from stillroom.teacher.cache import Kept, Row

KEY_VERSION = 1
"""of the canonical request; a new version asks everything anew"""
TOO_LONG = "context_length"
"""finish reason of a prompt that does not fit into the teacher's context: not billed, not answered"""
FILTERED = "content_filter"
"""finish reason of an answer that a filter cut; code of a refusal where it held the prompt back"""
REFUSAL = "refusal"
"""finish reason of an answer that the API itself calls one (`message.refusal`, no content)"""
HALF = re.compile("[\ud800-\udfff]")
"""a surrogate alone"""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """One turn to answer; `sample` tells several answers to the same messages apart."""

    messages: tuple[Message, ...]
    sampling: Sampling
    sample: int = 0
    first_tokens: int | None = None
    """how many of the likeliest first tokens the endpoint is to name, with their log-probabilities"""
    tokens: array[int] | None = None
    """a prompt for `/completions` as token ids, in the place of messages: it is sent as it is"""
    scored: int | None = None
    """how many of the last tokens of `tokens` the endpoint is to score; no answer is wanted"""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is in the cache; `cached` says that it was there before it was wanted."""

    key: str
    text: str
    finish_reason: str
    """stop, length, content_filter, … as the endpoint says; or `context_length`"""
    prompt_tokens: int
    completion_tokens: int
    cached: bool


Dialogue: TypeAlias = Generator[Request, Answer, T]
"""yields requests, is sent their answers, returns what came of them"""


def asking(request: Request) -> Dialogue[Answer]:
    """A dialogue of one request."""
    return (yield request)


@dataclass(frozen=True, slots=True)
class Query:
    """A request as it is sent, and as it is kept."""

    key: str
    """SHA-256 of `text`, in hex"""
    text: str
    """canonical JSON: key version, teacher, sample, body"""
    body: dict[str, Any]
    """the JSON that is sent"""

    @property
    def path(self) -> str:
        """Where it is sent to, below the base URL."""
        return "/chat/completions" if "messages" in self.body else "/completions"

    @property
    def max_tokens(self) -> int:
        """Most tokens of the answer."""
        most: int = self.body.get("max_tokens") or self.body["max_completion_tokens"]
        return most


def identity(teacher: Teacher, folder: Path) -> str:
    """Which teacher this is, for the key: its id or model name; of the embedded one, its folder's content."""
    if teacher.id or teacher.model != "embedded":
        return teacher.id or teacher.model
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    content = {p.relative_to(folder).as_posix(): sha256(p) for p in files}
    return f"embedded:{sha256(canonical_json(content))}"


def query(request: Request, teacher: Teacher, known_as: str, chat: ChatFormat, seed: int) -> Query:
    """What is sent for a request, and its key. `known_as`: see `identity`."""
    sent = body(request, teacher, chat, seed)
    value = {"version": KEY_VERSION, "teacher": known_as, "sample": request.sample, "body": sent}
    if request.scored is not None:
        value["scored"] = request.scored
    text = canonical_json(value)
    return Query(sha256(text), text.decode(), sent)


def body(request: Request, teacher: Teacher, chat: ChatFormat, seed: int) -> dict[str, Any]:
    """The JSON that is sent. What is null in the sampling or in `extra` is left out: absent is not null."""
    sampling = request.sampling
    optional = {"top_k": sampling.top_k, "repetition_penalty": sampling.repetition_penalty}
    sent: dict[str, Any] = {
        "model": teacher.model,
        teacher.limit_field: sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        **{name: value for name, value in optional.items() if value is not None},
        "seed": seed + request.sample,
    }
    stop = list(sampling.stop)
    if request.first_tokens is not None:
        chat_form = {"logprobs": True, "top_logprobs": request.first_tokens}
        sent |= chat_form if teacher.api == "chat" else {"logprobs": request.first_tokens}
    if request.tokens is not None:
        sent["prompt"] = request.tokens.tolist()
        sent |= {"echo": True, "logprobs": 1} if request.scored is not None else {}
    elif teacher.api == "chat":
        sent["messages"] = [{"role": m.role, "content": m.content} for m in request.messages]
    else:
        sent["prompt"] = chat.text(request.messages, prompt=True)
        stop = list(dict.fromkeys([*stop, *chat.stops]))
    sent |= {"stop": stop} if stop else {}
    return {k: v for k, v in (sent | teacher.extra).items() if v is not None} if teacher.extra else sent


def answered(query: Query, response: bytes, headers: Mapping[str, str], **provenance: Any) -> Row:
    """The cache row of a completion; `provenance` holds endpoint, seconds, attempts.

    Raises ValueError where the response is not an OpenAI-style completion, EndpointError where it lacks the
    log-probabilities that were asked for.
    """
    try:
        document = _document(response)
        choice = document["choices"][0]
        content = choice["message"].pop("content") if "message" in choice else choice.pop("text")
        refusal = choice["message"].pop("refusal", None) if "message" in choice else None
        usage = document.get("usage") or {}
        text = _plain(content) or refusal or ""
        if query.body.get("echo"):
            text = canonical_json(_scores(query, choice)).decode()
        elif query.body.get("logprobs"):
            text = canonical_json({"text": text, "first": _first_tokens(choice)}).decode()
        return Row(
            key=query.key,
            request=query.text,
            text=text,
            finish_reason=REFUSAL if refusal and not content else choice.get("finish_reason") or "unknown",
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
            served_model=document.get("model"),
            fingerprint=document.get("system_fingerprint"),
            request_id=headers.get("x-request-id"),
            response_id=document.get("id"),
            time=round(time.time(), 3),
            response=orjson.dumps(document).decode(),
            **provenance,
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"not an OpenAI-style answer ({error!r})") from None


def _document(response: bytes) -> Any:
    """The JSON of a response; halves of characters, which servers send where they cut one, become U+FFFD."""
    try:
        return orjson.loads(response)
    except orjson.JSONDecodeError:
        document = json.loads(response.decode(errors="replace"))
        text = json.dumps(document, ensure_ascii=False)
        return orjson.loads(HALF.sub("\N{REPLACEMENT CHARACTER}", text))


def _plain(content: Any) -> str:
    """The text of a message, which may come in parts: those that are text, not what was thought before."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part["type"] == "text")
    if not isinstance(content, str | None):
        raise TypeError(f"content is of type {type(content).__name__}")
    return content or ""


def _first_tokens(choice: dict[str, Any]) -> dict[str, float]:
    """The likeliest first tokens with their log-probabilities; none of an answer that was cut or refused.

    Raises EndpointError where a usual answer has none.
    """
    found = choice.get("logprobs") or {}
    if named := found.get("content"):
        return {each["token"]: float(each["logprob"]) for each in named[0]["top_logprobs"]}
    if given := found.get("top_logprobs"):
        return {token: float(logprob) for token, logprob in given[0].items()}
    if choice.get("finish_reason") in ("stop", "length"):
        what = "the endpoint sends no log-probabilities, which the request asks for"
        raise EndpointError(what, hint="ask a model that gives them, or for a verdict in words")
    return {}


def first_tokens(text: str) -> dict[str, float]:
    """What the text of an answer says of its first token; nothing where the prompt did not fit."""
    found: dict[str, float] = orjson.loads(text)["first"] if text else {}
    return found


class Scores(NamedTuple):
    """Log-probabilities of tokens, and of the likeliest token in the place of each."""

    own: list[float]
    best: list[float]


def _scores(query: Query, choice: dict[str, Any]) -> dict[str, list[float]]:
    """Take the echo out of an answer, and keep the `scored` tokens of it. Raises EndpointError without them.

    An echo has an entry for each token of the prompt, and perhaps one for the token that comes next.
    """
    found = choice.pop("logprobs", None) or {}
    own, named = found.get("token_logprobs") or [], found.get("top_logprobs") or []
    last, scored = len(query.body["prompt"]), orjson.loads(query.text)["scored"]
    whole = len(own) == len(named) and len(own) - last in (0, 1)
    own, named = own[last - scored : last], named[last - scored : last]
    if not whole or None in own or None in named:
        what = "the endpoint sends no log-probabilities of the prompt, which the request asks for"
        raise EndpointError(what, hint="ask a server that answers `echo` with `logprobs`, as vLLM does")
    return {"own": own, "best": [max(each.values()) for each in named]}


def scored_tokens(text: str) -> Scores:
    """What the text of an answer says of the tokens that were to be scored; nothing of an empty one."""
    return Scores(**orjson.loads(text)) if text else Scores([], [])


def turned_away(query: Query, status: int, code: object, message: str) -> Row | None:
    """The row of a prompt that is refused for what it is, now and ever; None of any other refusal.

    It does not fit the context (OpenAI's code, or the words of vLLM and others), or a filter holds it back
    before the model sees it (Azure's code).
    """
    if status not in (400, 413, 422):
        return None
    if code == "context_length_exceeded" or "context length" in message.lower():
        return Row(query.key, query.text, "", TOO_LONG, 0, 0)
    return Row(query.key, query.text, "", FILTERED, 0, 0) if code == FILTERED else None


def answer(row: Row | Kept, *, cached: bool) -> Answer:
    """What a stage is told of a row."""
    return Answer(row.key, row.text, row.finish_reason, row.prompt_tokens, row.completion_tokens, cached)
