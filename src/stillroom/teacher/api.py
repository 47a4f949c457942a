"""OpenAI's API as data: what a request may say, how an answer and a refusal are spelled.

Beyond OpenAI's fields a request may have `top_k` and `repetition_penalty`, as with vLLM. Fields that would
change the answer and are not supported (tools, logprobs, …) are refused, never ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from stillroom.params import Sampling
from stillroom.records import Message

if TYPE_CHECKING:
    from stillroom.inference.engine import Event

UNSUPPORTED = (
    *("tools", "functions", "logprobs", "top_logprobs", "prompt_logprobs", "logit_bias", "response_format"),
    *("presence_penalty", "frequency_penalty", "min_p", "echo", "suffix", "best_of", "prediction", "audio"),
)
"""refused unless null, false, zero or empty"""


class ApiError(Exception):
    """A refusal in OpenAI's shape."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    def response(self) -> Response:
        """The JSON body `{"error": {"message", "type", "param", "code"}}`."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return json_response({"error": error}, self.status)


class StreamOptions(BaseModel):
    """What a stream carries beside the answer."""

    include_usage: bool = False


class AnswerRequest(BaseModel):
    """The fields that chat and text completions share."""

    model_config = ConfigDict(extra="allow")

    model: str
    n: int = Field(1, ge=1, le=128)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(1.0, ge=0, le=2)
    top_p: float | None = Field(1.0, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    repetition_penalty: float | None = Field(None, gt=0)
    stop: str | list[Annotated[str, Field(min_length=1)]] | None = None
    seed: int | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None

    def sampling(self, max_tokens: int) -> Sampling:
        """These settings, with OpenAI's defaults for null."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        return Sampling(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            stop=[text for text in stop or [] if text],
        )

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class TextPart(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A turn, its content as text or in parts."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def message(self) -> Message:
        """The turn as the pipeline knows it."""
        parts = [self.content] if isinstance(self.content, str) else [part.text for part in self.content]
        return Message("system" if self.role == "developer" else self.role, "".join(parts))


class ChatRequest(AnswerRequest):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)


class TextRequest(AnswerRequest):
    """POST /v1/completions."""

    prompt: str | list[int] | list[str] | list[list[int]]
    max_tokens: int | None = Field(16, ge=1)


R = TypeVar("R", bound=AnswerRequest)


def parse(body: bytes, model: type[R]) -> R:
    """Validate a request's body. Raises ApiError 400 naming the field."""
    try:
        asked = model.model_validate_json(body)
    except ValidationError as failure:
        error = failure.errors()[0]
        field = ".".join(map(str, error["loc"]))
        raise ApiError(400, f"{field or 'body'}: {error['msg']}", param=field or None) from None
    for name in UNSUPPORTED:
        value = (asked.model_extra or {}).get(name)
        if value and value != {"type": "text"}:
            raise ApiError(400, f"{name} is not supported", code="unsupported_parameter", param=name)
    return asked


@dataclass(frozen=True)
class Reply:
    """How the answers of one request are spelled: as chat completion or as text completion."""

    chat: bool
    model: str
    id: str
    created: int
    prompt_tokens: int

    def body(self, events: Sequence[Event]) -> dict[str, Any]:
        """The whole answer, choices by index."""
        ordered = sorted(events, key=lambda event: event.row)
        choices = [
            self._choice(e, "message", {"role": "assistant", "content": e.text}, e.text) for e in ordered
        ]
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": self.usage(events)}

    def chunk(self, event: Event, text: str, *, first: bool) -> dict[str, Any]:
        """One piece of a streamed answer; the first one of a choice names the role."""
        delta = {"role": "assistant", "content": text} if first else {"content": text}
        return {**self._head(self._chunk_kind), "choices": [self._choice(event, "delta", delta, text)]}

    def usage_chunk(self, events: Sequence[Event]) -> dict[str, Any]:
        """The last piece, where usage was asked for."""
        return {**self._head(self._chunk_kind), "choices": [], "usage": self.usage(events)}

    def usage(self, events: Sequence[Event]) -> dict[str, int]:
        """Token counts over all choices; end tokens are not counted."""
        answer = sum(event.tokens for event in events)
        total = self.prompt_tokens + answer
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": answer, "total_tokens": total}

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _choice(self, event: Event, key: str, message: dict[str, str], text: str) -> dict[str, Any]:
        content = {key: message} if self.chat else {"text": text}
        return {"index": event.row, **content, "logprobs": None, "finish_reason": event.finish_reason}


def json_response(value: Any, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(value), status, media_type="application/json")


def server_sent(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"
