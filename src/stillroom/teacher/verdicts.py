"""What an answer is worth, and what is done about it.

Request ──▶ ask: the answer, judged; kept, asked for again, or dropped ──▶ Reply

    reply = yield from verdicts.ask(request, policies)      # within a dialogue

A verdict is read off the finish reason and the text, and `policies` says what becomes of each. Whatever was
bought stays in the response cache and in the snapshot, dropped or not: a rerun with other policies asks only
for what is new.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field, field_validator

from stillroom.params import Settings
from stillroom.teacher.requests import REFUSAL, TOO_LONG, Answer, Dialogue, Request

Verdict = Literal["complete", "truncated", "empty", "refused", "filtered", "other", "too_long"]
"""complete, or: cut at max_tokens; without text; declined; cut by the endpoint's filter; an unknown finish
reason; a prompt beyond the teacher's context"""
Fate = Literal["kept", "retried", "dropped"]
FINISHED: dict[str, Verdict] = {
    "stop": "complete",
    "eos_token": "complete",
    "stop_sequence": "complete",
    "end_turn": "complete",
    "length": "truncated",
    "max_tokens": "truncated",
    "content_filter": "filtered",
    REFUSAL: "refused",
    TOO_LONG: "too_long",
}
"""finish reasons of OpenAI's API, and of servers that use words of their own"""
INCOMPLETE = ("truncated", "filtered")
"""kept, they end the conversation: nobody goes on from half an answer"""
OPENING = 300
"""characters of an answer in which a refusal shows itself"""
REFUSALS = [
    r"((i'm |i am )?(very |truly |so |deeply )?sorry|(i |my )?(sincerely |deeply )?apolog\w+)\b"
    r"[^.!?\n]{0,60}?\bi('m| am)? ?(can't|cannot|can not|won't|will not|not able to|unable to)\b",
    r"(unfortunately,? |[^.!?\n]{0,30}\bas an? [^.!?\n]{0,40}\b(ai|assistant|language model)\b"
    r"[^.!?\n]{0,60})?\bi('m| am)? ?(can't|cannot|can not|won't|will not|not able to|unable to) (\w+ly )?"
    r"(address|answer|assist|comply|create|discuss|do (that|this)|fulfill?|generate|help (you|with)"
    r"|perform|produce|provide|respond|satisfy|share|support|write)\b",
]
"""of answers in English"""


class Policies(Settings):
    """What becomes of answers that are not complete; dropped is the turn and what follows it."""

    truncated: Literal["keep", "retry", "drop"] = "drop"
    """cut at max_tokens; kept, it ends the conversation; retry asks once more, for `retry_max_tokens`"""
    empty: Literal["retry", "drop"] = "drop"
    """no text; retry draws the next sample"""
    refused: Literal["keep", "retry", "drop"] = "keep"
    """the teacher declines, by the endpoint's word or by `refusals`; retry draws the next sample"""
    filtered: Literal["keep", "retry", "drop"] = "drop"
    """cut by the endpoint's content filter; kept, it ends the conversation; retry draws the next sample"""
    other: Literal["keep", "retry", "drop"] = "drop"
    """an unknown finish reason; retry draws the next sample"""
    retries: int = Field(default=1, ge=0)
    """most retries of a turn; an answer that is still to be retried then is dropped"""
    retry_max_tokens: int | None = Field(default=None, ge=1)
    """most tokens of the answer that takes a truncated one's place; null: twice as many as the one before"""
    refusals: list[str] = REFUSALS
    """regular expressions; a complete answer whose beginning matches one is refused"""

    @field_validator("refusals")
    @classmethod
    def _expressions(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"not a regular expression: {pattern!r} ({error})") from None
        return patterns


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer that a turn ended with, and what it took."""

    answer: Answer
    verdict: Verdict
    kept: bool
    judged: tuple[tuple[Verdict, Fate], ...]
    """every answer to the turn, in order; the last one is this"""

    @property
    def ends(self) -> bool:
        """Whether the conversation ends here: the answer is dropped, or stops half-way."""
        return not self.kept or self.verdict in INCOMPLETE


def ask(request: Request, policies: Policies, stride: int = 1) -> Dialogue[Reply]:
    """Ask, and ask again as long as the policy says so and retries are left.

    stride: how many samples the run draws; a retry of the first takes the index after the last one's.
    """
    judged: list[tuple[Verdict, Fate]] = []
    while True:
        answer = yield request
        verdict = judge(answer, policies)
        policy = policy_of(verdict, policies)
        if policy == "retry" and len(judged) < policies.retries:
            judged.append((verdict, "retried"))
            request = retried(request, verdict, policies, stride)
            continue
        kept = policy == "keep" and bool(answer.text.strip())
        judged.append((verdict, "kept" if kept else "dropped"))
        return Reply(answer, verdict, kept, tuple(judged))


def judge(answer: Answer, policies: Policies) -> Verdict:
    """What an answer is: by its finish reason, and where that says `complete` by its text."""
    verdict = FINISHED.get(answer.finish_reason, "other")
    if verdict != "complete":
        return verdict
    beginning = answer.text.lstrip()[:OPENING].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    if not beginning:
        return "empty"
    return "refused" if any(p.match(beginning) for p in _compiled(tuple(policies.refusals))) else "complete"


def policy_of(verdict: Verdict, policies: Policies) -> Literal["keep", "retry", "drop"]:
    """What is to be done: complete answers stay, and no retry shortens a prompt that does not fit."""
    if verdict == "complete":
        return "keep"
    if verdict == "too_long":
        return "drop"
    policy: Literal["keep", "retry", "drop"] = getattr(policies, verdict)
    return policy


def retried(request: Request, verdict: Verdict, policies: Policies, stride: int) -> Request:
    """The request that a retry sends: with more room for a truncated answer, else for another sample."""
    if verdict != "truncated":
        return replace(request, sample=request.sample + stride)
    room = policies.retry_max_tokens or 2 * request.sampling.max_tokens
    return replace(request, sampling=request.sampling.model_copy(update={"max_tokens": room}))


@functools.cache
def _compiled(patterns: tuple[str, ...]) -> list[re.Pattern[str]]:
    return [re.compile(pattern, re.IGNORECASE) for pattern in patterns]
