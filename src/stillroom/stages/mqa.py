"""Questions over many documents, one of which holds the answer.

data/raw/{questions,passages} ──▶ mqa ──▶ data/interim/mqa.jsonl, data/benchmarks/mqa/eval.jsonl

    stillroom mqa

The other documents are those that came with the question, then those that BM25 finds most alike to it, all
without its answers. The gold document stands anywhere with the same chance. Questions are held out for the
benchmark, with all others about their gold passages, and asked with every number of documents, or as their
source asks them. Texts and index stand on disk: memory hardly grows with the passages.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from stillroom import chat_format, summary
from stillroom.artifacts import atomic_directory, write_json, write_jsonl
from stillroom.chat_format import ChatFormat, Tokenizer, load_tokenizer
from stillroom.collection import Collection, Wholes, collection
from stillroom.distractors import Distractors, Shown
from stillroom.draws import rng
from stillroom.fitting import Draft, fitted
from stillroom.params import Block
from stillroom.progress import track, tracked
from stillroom.questionnaire import GroupBy, Question, gather, held_out, united
from stillroom.records import Conversation, Message
from stillroom.retrieval import Index
from stillroom.sources.passages import read_passages
from stillroom.sources.questions import read_questions
from stillroom.squad import holds

INSTRUCTION = (
    "Write a high-quality answer for the given question using only the provided search results "
    "(some of which might be irrelevant)."
)
FEWEST = 2
"""documents: with one there is nothing to choose from"""


class Params(Block):
    """The `mqa` block of params.yaml."""

    common_keys = ("seed", "chat_format", "context_length")

    seed: int = 42
    """of the held-out questions, the numbers of documents and the gold positions"""
    chat_format: str = "inst"
    """the format in which tokens are counted"""
    context_length: int = 32768
    """most tokens of an example; one that is longer gets fewer documents"""
    documents: list[int] = Field(default=[10, 200], min_length=1)
    """fewest and most documents of a training example; with `choices`, every number that it may have"""
    distribution: Literal["uniform", "log_uniform", "choices"] = "uniform"
    """of the number: any with the same chance; n with a chance of about 1/n; one of those listed"""
    eval_prompts: Literal["drawn", "published"] = "drawn"
    """published: all questions that come with documents are held out, and asked with those, in their order"""
    eval_documents: list[int] = [20, 30, 50]
    """numbers of documents with which each held-out question is asked, where they are drawn"""
    eval_share: float = Field(default=0.1, ge=0, lt=1)
    """share of the questions held out for the benchmark; above 0, at least those about one gold passage"""
    group_by: GroupBy = "passage"
    """what no split parts: questions about one gold passage or one page (title); question: equal ones only"""
    answer_tokens: int = Field(default=100, ge=1)
    """room that an evaluation prompt leaves for the answer: at least evaluate.mqa.max_tokens"""
    completion: Literal["full", "answer"] = "full"
    """full: `Answer: … / Long Answer: … / Gold Document ID: n`, one a line; answer: the answer alone"""

    @field_validator("documents", "eval_documents")
    @classmethod
    def _at_least_two(cls, value: list[int]) -> list[int]:
        if any(count < FEWEST for count in value):
            raise ValueError(f"every number must be at least {FEWEST}")
        return value

    @model_validator(mode="after")
    def _range(self) -> Params:
        ascending = len(self.documents) == 2 and self.documents[0] <= self.documents[1]
        if self.distribution != "choices" and not ascending:
            raise ValueError("documents must be [fewest, most], or distribution choices")
        return self

    def number(self, draw: Random) -> int:
        """A number of documents."""
        if self.distribution == "choices":
            return draw.choice(self.documents)
        fewest, most = self.documents
        if self.distribution == "uniform":
            return draw.randint(fewest, most)
        return int(fewest * math.exp(draw.random() * math.log((most + 1) / fewest)))


@dataclass(frozen=True)
class Paths:
    """Where dvc.yaml says that things lie."""

    questions: Path = Path("data/raw/questions")
    passages: Path = Path("data/raw/passages")
    base: Path = Path("models/base")
    train: Path = Path("data/interim/mqa.jsonl")
    benchmark: Path = Path("data/benchmarks/mqa")
    metrics: Path = Path("reports/metrics/mqa.json")


@dataclass
class Tally:
    """What became of the questions, counted while examples are written."""

    dropped: Counter[str] = field(default_factory=Counter)
    examples: Counter[str] = field(default_factory=Counter)
    """train and eval"""
    tokens: list[int] = field(default_factory=list)
    """lengths of the training examples"""
    documents: Counter[int] = field(default_factory=Counter)
    """training examples by number of documents"""
    evaluated: Counter[int] = field(default_factory=Counter)
    """evaluation examples by number of documents"""
    shortened: int = 0
    """training examples with fewer documents than drawn, for want of context or of passages"""


@dataclass(frozen=True, slots=True)
class Plan:
    """A question and what stands around it; the gold document stands at the share `place` of the way."""

    id: str
    question: Question
    gold: Shown
    others: Sequence[Shown]
    place: float
    completion: str

    def example(self, count: int) -> Conversation:
        """The question over `count` documents."""
        index = int(self.place * count)
        shown = [*self.others[:index], self.gold, *self.others[index : count - 1]]
        lines = [f"Document [{i}](Title: {s.passage.title}) {s.passage.text}" for i, s in enumerate(shown, 1)]
        prompt = f"{INSTRUCTION}\n\n" + "\n".join(lines) + f"\n\nQuestion: {self.question.text}"
        said = answer(self.question, self.gold, index, self.completion)
        meta = {
            "question": self.question.text,
            "answers": list(self.question.answers),
            "documents": count,
            "gold_index": index,
            "title": self.gold.passage.title,
            "passages": [s.where for s in shown],
            "scores": [s.score for s in shown],
            "question_id": self.question.id,
            "source": self.question.source._asdict(),
            "group": self.question.group,
        }
        return Conversation(self.id, "mqa", (Message("user", prompt), Message("assistant", said)), meta)


def run(paths: Paths, params: Params) -> None:
    """Write the training conversations, the benchmark and the metrics. Raises InputError on a bad record."""
    chat, tokenizer = chat_format.get(params.chat_format), load_tokenizer(paths.base)
    tally = Tally()
    with collection(paths.train.with_name(".mqa.partial")) as passages:
        questions = taken(paths, params, passages, tally)
        index = Index(Wholes(passages), passages.folder / "index")
        distractors = Distractors(passages, index, params.seed)
        train, held = split(questions, params, tally)
        write_jsonl(paths.train, training(train, held, distractors, params, chat, tokenizer, tally))
        with atomic_directory(paths.benchmark) as folder:
            if params.eval_prompts == "published":
                plans = published(held, distractors, params)
            else:
                plans = drawn(held, distractors, params, tally)
            write_jsonl(folder / "eval.jsonl", evaluation(plans, params, chat, tokenizer, tally))
        report(tally)
        write_json(paths.metrics, metrics(questions, held, len(passages), tally))


def taken(paths: Paths, params: Params, passages: Collection, tally: Tally) -> list[Question]:
    """The questions, sorted by id; their passages and the collection's are taken in."""
    asked = read_questions(paths.questions, tally.dropped)
    found = gather(tracked(asked, "read", unit="questions"), passages)
    for origin, passage in tracked(read_passages(paths.passages), "read", unit="passages") if found else ():
        passages.add(passage, origin)
    return united(found, passages.settle(), passages, params.group_by, tally.dropped)


def split(
    questions: Sequence[Question], params: Params, tally: Tally
) -> tuple[list[Question], list[Question]]:
    """Those that train, and those that are held out: no group is on both sides."""
    if params.eval_prompts == "published":
        groups = frozenset(q.group for q in questions if q.prompts)
        silent = sum(q.group in groups and not q.prompts for q in questions)
        tally.dropped["eval_without_prompt"] += silent
    else:
        groups = held_out(questions, params.eval_share, params.seed)
    train = [q for q in questions if q.group not in groups]
    return train, [q for q in questions if q.group in groups]


def training(
    questions: Sequence[Question],
    held: Sequence[Question],
    distractors: Distractors,
    params: Params,
    chat: ChatFormat,
    tokenizer: Tokenizer,
    tally: Tally,
) -> Iterator[Conversation]:
    """One example per question, sorted by id, with a drawn number of documents or as many as fit.

    None shows a gold passage that only the benchmark asks about.
    """
    wanted = {q.id: params.number(rng(params.seed, "mqa", q.id, "documents")) for q in questions}
    asked = {place for question in held for place in question.golds} - {q.gold for q in questions}

    def drafts() -> Iterator[Draft]:
        for question in questions:
            others = distractors.of(question, wanted[question.id] - 1, asked)
            place = rng(params.seed, "mqa", question.id, "place").random()
            gold = distractors.shown(question.gold)
            plan = Plan(f"mqa-{question.id}", question, gold, others, place, params.completion)
            yield Draft(plan.example, len(others) + 1, FEWEST)

    with track("mqa", len(questions), "examples") as progress:
        for question, fit in zip(
            questions, fitted(drafts(), params.context_length, chat, tokenizer), strict=True
        ):
            progress.advance()
            if fit.conversation is None or fit.documents < FEWEST:
                tally.dropped["too_long" if fit.conversation is None else "no_distractor"] += 1
                continue
            tally.examples["train"] += 1
            tally.tokens.append(fit.tokens)
            tally.documents[fit.documents] += 1
            tally.shortened += fit.documents < wanted[question.id]
            yield fit.conversation


def drawn(
    questions: Iterable[Question], distractors: Distractors, params: Params, tally: Tally
) -> Iterator[Plan]:
    """Each question with each number of documents, sorted by id; one that cannot have it is dropped."""
    numbers = sorted(set(params.eval_documents))
    for question in questions:
        others = distractors.of(question, max(numbers, default=FEWEST) - 1)
        gold = distractors.shown(question.gold)
        for count in numbers:
            if len(others) + 1 < count:
                tally.dropped["eval_no_distractor"] += 1
                continue
            place = rng(params.seed, "mqa", question.id, "place", count).random()
            id = f"mqa-{question.id}-{count:03}"
            yield Plan(id, question, gold, others[: count - 1], place, params.completion)


def published(questions: Iterable[Question], distractors: Distractors, params: Params) -> Iterator[Plan]:
    """Each question with the documents that its sources show, in their order, sorted by id."""
    for question in questions:
        for number, prompt in enumerate(sorted(question.prompts, key=lambda p: (len(p.documents), p))):
            shown = [distractors.shown(place) for place in prompt.documents]
            gold = shown.pop(prompt.gold_index)
            asked = replace(question, answers=prompt.answers, source=prompt.source)
            place = (prompt.gold_index + 0.5) / len(prompt.documents)
            id = f"mqa-{question.id}-{len(prompt.documents):03}-{number:02}"
            yield Plan(id, asked, gold, shown, place, params.completion)


def evaluation(
    plans: Iterable[Plan], params: Params, chat: ChatFormat, tokenizer: Tokenizer, tally: Tally
) -> Iterator[Conversation]:
    """The benchmark's records; one whose prompt is too long is dropped."""
    limit = params.context_length - params.answer_tokens
    drafts = (Draft(plan.example, len(plan.others) + 1, len(plan.others) + 1) for plan in plans)
    for fit in tracked(fitted(drafts, limit, chat, tokenizer, prompt=True), "mqa", unit="test prompts"):
        if fit.conversation is None:
            tally.dropped["eval_too_long"] += 1
            continue
        tally.examples["eval"] += 1
        tally.evaluated[fit.documents] += 1
        yield fit.conversation


def answer(question: Question, gold: Shown, index: int, completion: str) -> str:
    """What the model learns to say: the first answer that the gold document spells, and where it is."""
    said = next(a for a in question.answers if holds(gold.passage.whole, (a,)))
    if completion == "answer":
        return said
    return f"Answer: {said}\nLong Answer: {gold.passage.text}\nGold Document ID: {index + 1}"


def report(tally: Tally) -> None:
    """State on standard error what was left out."""
    left_out = {reason: count for reason, count in sorted(tally.dropped.items()) if count}
    if left_out or tally.shortened:
        print(f"mqa: left out {left_out}; {tally.shortened} examples have fewer documents", file=sys.stderr)


def metrics(
    questions: Sequence[Question], held: Sequence[Question], passages: int, tally: Tally
) -> dict[str, Any]:
    """Counts of questions, passages and examples, left out ones by reason, and lengths."""
    numbers = sorted(tally.documents.elements())
    return {
        "questions": len(questions),
        "shapes": dict(sorted(Counter(question.source.shape for question in questions).items())),
        "groups": len({question.group for question in questions}),
        "eval_questions": len(held),
        "eval_groups": len({question.group for question in held}),
        "passages": passages,
        "train": tally.examples["train"],
        "eval": tally.examples["eval"],
        "eval_by_documents": {str(count): n for count, n in sorted(tally.evaluated.items())},
        "shortened": tally.shortened,
        "dropped": dict(sorted(tally.dropped.items())),
        "documents": {key: value for key, value in summary.lengths(numbers).items() if key != "total"},
        "tokens": summary.lengths(tally.tokens),
    }
