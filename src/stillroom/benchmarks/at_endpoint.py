"""A model that answers at an endpoint, examined: asked as a teacher is, through the response cache.

models/NAME/endpoint.json, prompts ──▶ AtEndpoint.answers ──▶ replies; AtEndpoint.keep ──▶ snapshot
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from stillroom.artifacts import write_jsonl
from stillroom.benchmarks.subject import Reply, Subject
from stillroom.chat_template import OWN
from stillroom.endpoint_model import EndpointModel
from stillroom.errors import ModelError
from stillroom.params import Endpoint, Sampling
from stillroom.records import Message
from stillroom.teacher import snapshot
from stillroom.teacher.cache import Cache
from stillroom.teacher.client import Asker, ask_all
from stillroom.teacher.requests import Answer, Request
from stillroom.teacher.verdicts import FINISHED

if TYPE_CHECKING:
    from stillroom.benchmarks.base import Sample
    from stillroom.inference.generate import Generator

Ask: TypeAlias = Callable[[Sequence[Request]], list[Answer]]
"""answers to requests, in their order"""
MODEL_ANSWERS, MODEL_REQUESTS = "model-answers.parquet", "model-requests.jsonl"
"""of an item's folder: the cache rows of what the model said; {id, keys}, which are whose"""


@dataclass
class AtEndpoint(Subject):
    """A model without weights.

    endpoint: limits and patience, and the key where it is the same address.  before: the last snapshot.
    """

    model: EndpointModel
    endpoint: Endpoint
    before: Path
    keys: dict[str, list[str]] = field(default_factory=dict)
    """of its answers, by the prompt, or by the sample's id where a sample has several"""

    @cached_property
    def generator(self) -> Generator:
        """There is none. Raises ModelError."""
        raise ModelError(
            f"{self.model.model} answers at an endpoint: this benchmark needs its weights",
            where=str(self.folder),
            hint="leave the benchmark out of evaluate.benchmarks, or the model out of evaluate.models",
        )

    def prompt(self, messages: Sequence[Message]) -> str:
        """The question in the chat format, for readers: a chat endpoint is sent messages and spells them."""
        if self.chat is OWN:
            return "\n\n".join(message.content for message in messages)
        return self.chat.text(messages, prompt=True)

    def answers(
        self, prompts: Sequence[Sequence[Message]], sampling: Sampling, seeds: Sequence[int], title: str
    ) -> list[Reply]:
        """The answer to each prompt, from the cache or bought. Raises EndpointError, BudgetError.

        seeds: not used; every request carries the run's seed.
        """
        with self.asking(title) as ask:
            found = ask([Request(tuple(prompt), sampling) for prompt in prompts])
        self.keys |= {self.prompt(p): [answer.key] for p, answer in zip(prompts, found, strict=True)}
        return [self.reply_of(answer) for answer in found]

    @contextmanager
    def asking(self, title: str) -> Iterator[Ask]:
        """Ask any number of times, within the limits and the money of one run.

        What is asked raises EndpointError, BudgetError.
        """
        reached = self.model.reached(self.endpoint)
        with Cache() as cache:
            snapshot.restore(self.before, cache)
            with Asker(self.model.teacher, reached, self.folder, self.chat, cache, self.seed, title) as asker:
                yield lambda requests: ask_all(requests, asker)

    @staticmethod
    def reply_of(answer: Answer) -> Reply:
        """What an answer is to an examination: no text where the endpoint turned the prompt away."""
        found = FINISHED.get(answer.finish_reason)
        if found == "too_long":
            return Reply(None, note="over-length: the endpoint says that the prompt does not fit the model")
        if found == "filtered":
            return Reply(None, note="the endpoint's filter held the answer back", failed=True)
        return Reply(answer.text, "length" if found == "truncated" else answer.finish_reason)

    def keep(self, folder: Path, samples: Sequence[Sample]) -> None:
        """Write a snapshot of the answers, and which sample each is of."""
        if self.keys:
            used = {key for some in self.keys.values() for key in some}
            with Cache() as cache:
                snapshot.write(folder / MODEL_ANSWERS, cache, used)
            mine = ((s.id, self.keys.get(s.id) or self.keys.get(s.prompt)) for s in samples)
            write_jsonl(folder / MODEL_REQUESTS, ({"id": id, "keys": keys} for id, keys in mine if keys))


@dataclass
class Listener(AtEndpoint):
    """A stand-in for an estimate: what is asked is noted, and answered with nothing."""

    requests: list[Request] = field(default_factory=list)

    @contextmanager
    def asking(self, title: str) -> Iterator[Ask]:
        """Empty answers, at no cost."""

        def noted(requests: Sequence[Request]) -> list[Answer]:
            self.requests += requests
            return [Answer("", "", "stop", 0, 0, False) for _ in requests]

        yield noted
