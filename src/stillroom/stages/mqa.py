"""Questions over many documents, one of which holds the answer.

data/raw/{questions,passages} ──▶ mqa ──▶ data/interim/mqa.jsonl, data/benchmarks/mqa/eval.jsonl

    stillroom mqa

The other documents are those that BM25 finds most alike to the question and that hold none of its answers.
The gold document stands anywhere with the same chance. Questions are held out for the benchmark, where each
is asked with every number of documents.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from stillroom import chat_format, summary
from stillroom.artifacts import atomic_directory, write_json, write_jsonl
from stillroom.chat_format import ChatFormat, Tokenizer, load_tokenizer
from stillroom.draws import held_out, rng
from stillroom.fitting import Draft, fitted
from stillroom.params import Block
from stillroom.progress import track
from stillroom.records import Conversation, Message
from stillroom.retrieval import Index
from stillroom.sources.questions import Passage, Question, holds, read_passages, read_questions

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
    documents: tuple[int, int] = (10, 200)
    """fewest and most documents of a training example; every number between has the same chance"""
    eval_documents: list[int] = [20, 30, 50]
    """numbers of documents with which each held-out question is asked"""
    eval_share: float = Field(default=0.1, ge=0, lt=1)
    """share of the questions held out for the benchmark; above 0, at least one of two or more"""
    answer_tokens: int = Field(default=100, ge=1)
    """room that an evaluation prompt leaves for the answer: at least evaluate.mqa.max_tokens"""
    completion: Literal["full", "answer"] = "full"
    """full: `Answer: … / Long Answer: … / Gold Document ID: n`, one a line; answer: the answer alone"""

    @field_validator("documents")
    @classmethod
    def _ascending(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not FEWEST <= value[0] <= value[1]:
            raise ValueError(f"[fewest, most] with {FEWEST} <= fewest <= most")
        return value

    @field_validator("eval_documents")
    @classmethod
    def _at_least_two(cls, value: list[int]) -> list[int]:
        if any(count < FEWEST for count in value):
            raise ValueError(f"every number must be at least {FEWEST}")
        return sorted(set(value))


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

    dropped: Counter[str]
    examples: Counter[str]
    """train and eval"""
    tokens: list[int]
    """lengths of the training examples"""
    documents: Counter[int]
    """training examples by number of documents"""
    evaluated: Counter[int]
    """evaluation examples by number of documents"""
    shortened: int = 0
    """training examples with fewer documents than drawn, for want of context or of passages"""


class Distractors:
    """Finds passages that look right and are wrong."""

    def __init__(self, corpus: Sequence[Passage]) -> None:
        self._corpus = corpus
        self._index = Index([f"{passage.title} {passage.text}" for passage in corpus])

    def of(self, question: Question, count: int) -> list[Passage]:
        """At most `count` passages without any answer: the question's own first, then by BM25."""
        found = (self._corpus[place] for place in self._index.ranked(question.text, 100 + 10 * count))
        candidates = dict.fromkeys((*question.others, *found))
        others = (passage for passage in candidates if passage != question.gold)
        return list(islice((p for p in others if not holds(f"{p.title} {p.text}", question.answers)), count))


def run(paths: Paths, params: Params) -> None:
    """Write the training conversations, the benchmark and the metrics. Raises InputError on a bad record."""
    chat, tokenizer = chat_format.get(params.chat_format), load_tokenizer(paths.base)
    tally = Tally(Counter(), Counter(), [], Counter(), Counter())
    questions = unique(read_questions(paths.questions, tally.dropped), tally.dropped)
    distractors = Distractors(corpus(questions, read_passages(paths.passages)))
    evaluated = held_out((q.id for q in questions), params.eval_share, params.seed)
    train = [q for q in questions if q.id not in evaluated]
    held = [q for q in questions if q.id in evaluated]
    write_jsonl(paths.train, training(train, distractors, params, chat, tokenizer, tally))
    with atomic_directory(paths.benchmark) as folder:
        write_jsonl(folder / "eval.jsonl", evaluation(held, distractors, params, chat, tokenizer, tally))
    report(tally)
    write_json(paths.metrics, metrics(questions, tally))


def unique(questions: Iterable[Question], dropped: Counter[str]) -> list[Question]:
    """Questions sorted by id; of equal ones the first, with the passages of all."""
    found: dict[str, Question] = {}
    for question in questions:
        first = found.get(question.id)
        if first is None:
            found[question.id] = question
            continue
        dropped["duplicate"] += 1
        others = tuple(dict.fromkeys((*first.others, *question.others)))
        found[question.id] = Question(first.id, first.text, first.answers, first.gold, others)
    return [found[id] for id in sorted(found)]


def corpus(questions: Iterable[Question], passages: Iterable[Passage]) -> list[Passage]:
    """Every distinct passage: the questions' own, then the collection's."""
    own = (passage for question in questions for passage in (question.gold, *question.others))
    return list(dict.fromkeys((*own, *passages)))


def training(
    questions: Sequence[Question],
    distractors: Distractors,
    params: Params,
    chat: ChatFormat,
    tokenizer: Tokenizer,
    tally: Tally,
) -> Iterator[Conversation]:
    """One example per question, sorted by id, with a drawn number of documents or as many as fit."""
    wanted = {q.id: rng(params.seed, "mqa", q.id, "documents").randint(*params.documents) for q in questions}

    def drafts() -> Iterator[Draft]:
        for question in questions:
            passages = distractors.of(question, wanted[question.id] - 1)
            place = rng(params.seed, "mqa", question.id, "place").random()
            write = partial(example, f"mqa-{question.id}", question, passages, place, params.completion)
            yield Draft(write, len(passages) + 1, FEWEST)

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


def evaluation(
    questions: Sequence[Question],
    distractors: Distractors,
    params: Params,
    chat: ChatFormat,
    tokenizer: Tokenizer,
    tally: Tally,
) -> Iterator[Conversation]:
    """Each question with each number of documents, sorted by id; one that cannot have it is dropped."""

    def drafts() -> Iterator[Draft]:
        for question in questions:
            passages = distractors.of(question, max(params.eval_documents, default=FEWEST) - 1)
            for count in params.eval_documents:
                if len(passages) + 1 < count:
                    tally.dropped["eval_no_distractor"] += 1
                    continue
                place = rng(params.seed, "mqa", question.id, "place", count).random()
                id = f"mqa-{question.id}-{count:03}"
                yield Draft(partial(example, id, question, passages, place, params.completion), count, count)

    limit = params.context_length - params.answer_tokens
    for fit in fitted(drafts(), limit, chat, tokenizer, prompt=True):
        if fit.conversation is None:
            tally.dropped["eval_too_long"] += 1
            continue
        tally.examples["eval"] += 1
        tally.evaluated[fit.documents] += 1
        yield fit.conversation


def example(
    id: str, question: Question, others: Sequence[Passage], place: float, completion: str, count: int
) -> Conversation:
    """The question over `count` documents, the gold one at the share `place` of the way."""
    index = int(place * count)
    documents = list(others[: count - 1])
    documents.insert(index, question.gold)
    lines = [f"Document [{i}](Title: {p.title}) {p.text}" for i, p in enumerate(documents, 1)]
    prompt = f"{INSTRUCTION}\n\n" + "\n".join(lines) + f"\n\nQuestion: {question.text}"
    meta = {
        "question": question.text,
        "answers": list(question.answers),
        "documents": count,
        "gold_index": index,
        "group": question.id,
    }
    messages = (Message("user", prompt), Message("assistant", answer(question, index, completion)))
    return Conversation(id, "mqa", messages, meta)


def answer(question: Question, index: int, completion: str) -> str:
    """What the model learns to say: the first answer that the gold document spells, and where it is."""
    gold = question.gold
    said = next(a for a in question.answers if holds(f"{gold.title} {gold.text}", (a,)))
    if completion == "answer":
        return said
    return f"Answer: {said}\nLong Answer: {gold.text}\nGold Document ID: {index + 1}"


def report(tally: Tally) -> None:
    """State on standard error what was left out."""
    left_out = {reason: count for reason, count in sorted(tally.dropped.items()) if count}
    if left_out or tally.shortened:
        print(f"mqa: left out {left_out}; {tally.shortened} examples have fewer documents", file=sys.stderr)


def metrics(questions: Sequence[Question], tally: Tally) -> dict[str, Any]:
    """Counts of questions and examples, left out ones by reason, and lengths."""
    numbers = sorted(tally.documents.elements())
    return {
        "questions": len(questions),
        "train": tally.examples["train"],
        "eval": tally.examples["eval"],
        "eval_by_documents": {str(count): n for count, n in sorted(tally.evaluated.items())},
        "shortened": tally.shortened,
        "dropped": dict(sorted(tally.dropped.items())),
        "documents": {key: value for key, value in summary.lengths(numbers).items() if key != "total"},
        "tokens": summary.lengths(tally.tokens),
    }
