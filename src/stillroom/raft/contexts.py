"""What stands beside a question: the oracle, or not, among distractors.

pairs, passages ──▶ Contexts.plan ──▶ Plan ──▶ fit ──▶ examples with as many passages as the context holds

P: the share of the answered examples that show their oracle; in the others one more distractor takes its
place, and the answer is to be remembered. A refusal shows neither the oracle nor any passage with the answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice, tee
from typing import Literal, TypeAlias

from stillroom.chat_format import ChatFormat, Tokenizer
from stillroom.draws import drawn, rng
from stillroom.fitting import Draft, Fit, fitted
from stillroom.raft.formats import conversation
from stillroom.raft.pairs import Chunk, Pair
from stillroom.raft.plans import Plan
from stillroom.retrieval import Index
from stillroom.squad import normalise
from stillroom.teacher.replies import quotes, spaced

CANDIDATES = 20
"""passages looked at for each distractor that is wanted"""
By = Literal["random", "similarity"]
Example: TypeAlias = tuple[Plan, Fit]


class Contexts:
    """Draws for a set of questions what stands beside each.

    ids: of all questions, of which the shares of refusals and of shown oracles are kept to the nearest whole
    number. pool: the passages that distractors come from, drawn by the seed or most similar to the question.
    """

    def __init__(
        self,
        ids: Collection[str],
        pool: Sequence[Chunk],
        *,
        seed: int,
        distractors: int,
        by: By,
        refusal_share: float,
        oracle_probability: float,
    ) -> None:
        self._pool, self._seed, self._distractors = pool, seed, distractors
        self._refused = drawn(ids, refusal_share, seed, "refusal")
        self._shown = drawn((id for id in ids if id not in self._refused), oracle_probability, seed, "oracle")
        self._index = Index([chunk.text for chunk in pool]) if by == "similarity" else None

    def plan(self, pair: Pair) -> Plan:
        """Draw the passages beside a question and the oracle's place among them.

        None of them holds the quotation; for a refusal, none holds the short answer either.
        """
        refusal, oracle = pair.id in self._refused, pair.id in self._shown
        draw = rng(self._seed, "raft", pair.id)
        place = draw.random()
        wanted = self._distractors + (not oracle)
        most = min(len(self._pool), CANDIDATES * (wanted + 1))
        candidates: Iterable[int]
        if self._index is None:
            candidates = draw.sample(range(len(self._pool)), most)
        else:
            candidates = _ranked(self._index, pair.question, wanted + 1, most)
        others = (self._pool[i] for i in candidates if self._pool[i].id != pair.chunk.id)
        silent = (chunk for chunk in others if not tells(chunk.text, pair, refusal))
        beside = tuple(islice(silent, wanted))
        return Plan(pair, beside, oracle, refusal, place, few=len(beside) < wanted)


def _ranked(index: Index, query: str, enough: int, most: int) -> Iterator[int]:
    """The places of at most `most` passages, the best first; more than enough are searched for on demand."""
    seen = 0
    while seen < most:
        places = index.ranked(query, min(max(enough, 4 * seen), most))
        yield from places[seen:]
        seen = len(places)


def tells(text: str, pair: Pair, refusal: bool) -> bool:
    """Whether a passage gives the answer away."""
    if any(spaced(quote) in spaced(text) for quote in quotes(pair.cot_answer)):
        return True
    return refusal and f" {normalise(pair.answer)} " in f" {normalise(text)} "


def fit(
    plans: Iterable[Plan],
    limit: int,
    chat: ChatFormat,
    tokenizer: Tokenizer,
    counts: Counter[str],
    *,
    prompt: bool = False,
) -> Iterator[Example]:
    """The plans with as many passages as fit, in their order; those that cannot be written are counted.

    limit: tokens of the example; `prompt` does not count the answer.
    """
    mine, drafted = tee(_possible(plans, counts))
    drafts = (Draft(partial(conversation, made), made.most, 1) for made in drafted)
    for made, found in zip(mine, fitted(drafts, limit, chat, tokenizer, prompt=prompt), strict=True):
        if found.conversation is None:
            counts["too_long"] += 1
            continue
        counts["shortened"] += found.documents < made.most
        yield made, found


def _possible(plans: Iterable[Plan], counts: Counter[str]) -> Iterator[Plan]:
    """The plans that have a passage to show."""
    for made in plans:
        counts["few_distractors"] += made.few
        if made.most:
            yield made
        else:
            counts["no_distractor"] += 1
