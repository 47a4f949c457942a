"""params.yaml ──▶ one validated, frozen block per stage.

A stage declares its block as a subclass of `Block`; every field is `name: type = default` with a docstring,
from which the YAML comments, the JSON Schema and the reference are made. Keys that several stages share stand
under `common:`; a stage names those that it reads in `common_keys`, and dvc.yaml lists the same ones. How the
teacher is reached stands under `endpoint:`, which changes no answer: DVC does not watch it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from stillroom.errors import ParamsError
from stillroom.stages import STAGES

PARAMS = Path("params.yaml")
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where PyYAML was built with it: ten times as fast"""
WEB = "^https?://[^/@]+(/|$)"
"""an address: without a user or password, which are soon committed; keys come from the environment"""
SECRET = re.compile(r"//[^/@\s]*@")
"""user and password in an address"""


OURS = {
    "model",
    "messages",
    "prompt",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "n",
    "best_of",
    "stream",
    "stream_options",
    "echo",
    "logprobs",
    "top_logprobs",
}
"""fields of a request that have settings of their own, or would change what comes back"""


def _not_ours(fields: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if ours := sorted(fields.keys() & OURS):
        raise ValueError(f"{ours[0]} is not among the fields that may be added or left out")
    return fields


LimitField: TypeAlias = Literal["max_tokens", "max_completion_tokens"]
"""what an endpoint calls the most tokens of an answer"""
Extra: TypeAlias = Annotated[dict[str, JsonValue], AfterValidator(_not_ours)]
"""further fields of a request; those that are null are left out"""


class Settings(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Block(Settings):
    """A stage's block of params.yaml, plus what it reads of the blocks that stages share."""

    common_keys: ClassVar[tuple[str, ...]] = ()
    """keys of `common:`"""
    shared_blocks: ClassVar[tuple[str, ...]] = ()
    """whole blocks: `endpoint`"""


class Sampling(Settings):
    """How an answer is drawn from a model."""

    max_tokens: int = Field(default=1024, ge=1)
    """most tokens of one answer"""
    temperature: float = Field(default=0.7, ge=0)
    """0 is greedy"""
    top_p: float = Field(default=0.7, ge=0, le=1)
    """nucleus: smallest set of tokens with this probability"""
    top_k: int | None = Field(default=50, ge=-1)
    """only the k likeliest tokens; null for endpoints that do not know top_k"""
    repetition_penalty: float | None = Field(default=1.0, gt=0)
    """1 is none; null for endpoints that do not know it"""
    stop: list[str] = []
    """texts that end an answer"""


class Teacher(Settings):
    """The model that is asked: what shapes its answers, and so names them in the response cache."""

    model: str = "embedded"
    """name sent to the endpoint; `embedded` serves models/teacher on loopback while the stage runs"""
    id: str | None = None
    """name in the response cache, e.g. to tell a quantised copy apart; null: the model's"""
    api: Literal["chat", "completions"] = "chat"
    """chat sends messages; completions sends the text of common.chat_format"""
    limit_field: LimitField = "max_tokens"
    """what the endpoint calls max_tokens; OpenAI's reasoning models: max_completion_tokens"""
    extra: Extra = {}
    """further fields of a request, e.g. {reasoning_effort: low}; null leaves one of ours out"""


class Price(Settings):
    """What a model's tokens cost, per million, in any one currency."""

    prompt: float = Field(ge=0)
    """per million tokens read"""
    completion: float = Field(ge=0)
    """per million tokens written"""
    batch_share: float = Field(default=0.5, ge=0)
    """price through the batch API, as a share"""


class Batching(Settings):
    """How `backend: batch` splits its work and waits for it."""

    max_requests: int = Field(default=50_000, ge=1)
    """most requests of one batch"""
    max_bytes: int = Field(default=180_000_000, ge=1)
    """most bytes of one uploaded file"""
    window: str = "24h"
    """time that the endpoint may take"""
    poll_seconds: float = Field(default=30.0, gt=0)
    """between two looks at a batch"""


class Address(Settings):
    """Where a model other than the teacher is asked."""

    base_url: str = Field(pattern=WEB)
    """an OpenAI-compatible API"""
    api_key_env: str = "JUDGE_API_KEY"
    """environment variable that holds its key: the teacher's is not sent there"""
    api_key_file: str | None = None
    """file that holds the key, used where the variable is not set; outside the checkout"""


class Endpoint(Settings):
    """How the teacher is reached, how fast it is asked, and what it may cost. Changes no answer."""

    base_url: str | None = Field(default=None, pattern=WEB)
    """an OpenAI-compatible API, e.g. http://localhost:8000/v1; null only for the embedded teacher"""
    api_key_env: str = "OPENAI_API_KEY"
    """environment variable that holds the key; the key itself is never written anywhere"""
    api_key_file: str | None = None
    """file that holds the key, used where the variable is not set; outside the checkout"""
    backend: Literal["online", "batch"] = "online"
    """online asks request by request; batch uploads them (/v1/batches): slower and cheaper"""
    max_in_flight: int = Field(default=64, ge=1)
    """most requests at a time"""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """null: what the endpoint's headers say, else as fast as it takes them"""
    tokens_per_minute: float | None = Field(default=None, gt=0)
    """prompt and answer together; max_tokens are reserved, what was not used is given back"""
    requests_per_day: float | None = Field(default=None, gt=0)
    """in any 24 hours, counted over all runs of this machine"""
    tokens_per_day: float | None = Field(default=None, gt=0)
    """in any 24 hours, counted over all runs of this machine"""
    timeout: float = Field(default=600.0, gt=0)
    """seconds before a request is given up; the vendor may bill it all the same"""
    max_attempts: int = Field(default=8, ge=1)
    """tries of one request (429, 5xx, resets, timeouts) before the stage stops"""
    prices: dict[str, Price] = {}
    """model: {prompt, completion} per million tokens; without one, money is not counted"""
    max_cost: float | None = Field(default=None, ge=0)
    """most that a run of a stage may spend, in the prices' currency; it stops before, all kept"""
    batch: Batching = Batching()
    """settings of `backend: batch`"""
    judge: Address | None = None
    """where the judges of `evaluate` are asked, within the same limits; null: where the teacher is"""

    def of_judges(self) -> Endpoint:
        """The endpoint that `evaluate` asks."""
        return self.model_copy(update=dict(self.judge)) if self.judge else self


class Common(Settings):
    """Keys that several stages read."""

    seed: int = 42
    """the seed of everything that draws"""
    chat_format: str = "inst"
    """inst | llama-2 | llama-3 | chatml, or tokenizer for its own template: see `stillroom.chat_format`"""
    context_length: int = 32768
    """tokens of a packed row, and the most that any example may take"""
    teacher: Teacher = Teacher()


B = TypeVar("B", bound=Settings)

SHARED_BLOCKS: dict[str, type[Settings]] = {"common": Common, "endpoint": Endpoint}
"""the blocks of params.yaml that are not a stage's"""


def borrowed(block: type[BaseModel]) -> tuple[str, ...]:
    """The fields of a stage's block that stand elsewhere in params.yaml."""
    return (*getattr(block, "common_keys", ()), *getattr(block, "shared_blocks", ()))


def load(stage: str, block: type[B], path: Path = PARAMS) -> B:
    """The stage's block of the params file, validated, with its `common` keys merged in."""
    document = read(path)
    known_blocks(document, (*SHARED_BLOCKS, *STAGES, stage), path)
    return block_in(document, stage, block, path)


def known_blocks(document: dict[str, Any], names: Sequence[str], path: Path) -> None:
    """Raise ParamsError on a block of another name: what stands in it would be left out silently."""
    for key in document:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, 1, 0.5)
            hint = f"did you mean `{near[0]}`?" if near else f"known blocks: {', '.join(names)}"
            raise ParamsError("unknown block", where=f"{path}:{line_of(path, (key,))}: {key}", hint=hint)


def block_in(document: dict[str, Any], stage: str, block: type[B], path: Path) -> B:
    """As `load`, from a params file that was read; `path` is for errors."""
    common = validate(Common, document.get("common") or {}, path, ("common",))
    own = document.get(stage) or {}
    if not isinstance(own, dict):
        return validate(block, own, path, (stage,))
    shared = {key: getattr(common, key) for key in getattr(block, "common_keys", ())}
    if "endpoint" in getattr(block, "shared_blocks", ()):
        shared["endpoint"] = validate(Endpoint, document.get("endpoint") or {}, path, ("endpoint",))
    for key in shared.keys() & own.keys():
        where = f"{path}:{line_of(path, (stage, key))}: {stage}.{key}"
        hint = "it is a block of its own" if key == "endpoint" else f"set it under `common:` as common.{key}"
        raise ParamsError("one value for all stages", where=where, hint=hint)
    return validate(block, {**shared, **own}, path, (stage,))


def read(path: Path) -> dict[str, Any]:
    """The params file as a mapping. Raises ParamsError where it is absent or not YAML."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), LOADER)
    except FileNotFoundError:
        raise ParamsError(
            "no such file", where=str(path), hint="run from the checkout, or: stillroom recipe use tiny"
        ) from None
    except yaml.YAMLError as error:
        raise ParamsError(f"not valid YAML: {error}", where=str(path)) from None
    if not isinstance(document, dict):
        raise ParamsError("a mapping of blocks was expected", where=str(path))
    return document


def validate(model: type[B], value: Any, path: Path, at: tuple[str | int, ...]) -> B:
    """Build `model` from plain values. Raises ParamsError naming file, line, key and nearest known key."""
    try:
        return model.model_validate(value)
    except ValidationError as failure:
        error = failure.errors()[0]
    location = (*at, *error["loc"])
    where = f"{path}:{line_of(path, location)}: {'.'.join(str(part) for part in location)}"
    if error["type"] == "extra_forbidden":
        known = _keys_at(model, error["loc"][:-1])
        near = difflib.get_close_matches(str(location[-1]), known, 1, 0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(known)}"
        raise ParamsError("unknown key", where=where, hint=hint) from None
    what, given = error["msg"].removeprefix("Value error, "), error["input"]
    shown = "" if isinstance(given, dict | BaseModel) else f" (got {SECRET.sub('//***@', repr(given))})"
    raise ParamsError(f"{what[:1].lower()}{what[1:]}{shown}", where=where) from None


def line_of(path: Path, location: tuple[str | int, ...]) -> int:
    """The line (from 1) of the deepest part of `location` that the YAML file spells out."""
    node = yaml.compose(path.read_text(encoding="utf-8")) if path.exists() else None
    line = 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next((p for p in node.value if p[0].value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _keys_at(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """The field names of the settings group that `location` leads to."""
    for part in location:
        found = model.model_fields.get(str(part))
        nested = [a for a in _annotations(found.annotation) if _is_model(a)] if found else []
        if nested:
            model = nested[0]
    return [name for name in model.model_fields if name not in borrowed(model)]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _annotations(annotation: Any) -> list[Any]:
    """A type and everything in its brackets, flattened."""
    inner = getattr(annotation, "__args__", ())
    return [annotation, *(a for argument in inner for a in _annotations(argument))]
