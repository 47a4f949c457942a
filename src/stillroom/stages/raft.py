"""A folder of documents into questions, distractors and quoted answers (RAFT, arXiv:2403.10131).

data/raw/documents ──▶ raft ──▶ data/interim/{raft.jsonl,raft-records.jsonl,raft-answers.parquet},
                               data/benchmarks/raft/eval.jsonl

    stillroom raft

The teacher writes questions about each passage (the oracle) and answers them from it alone, quoting it; an
answer that quotes what the passage does not say is rejected. The student sees the oracle among other
passages; in the share 1 - P without it, and in refusals without it and with the answer that the documents
do not hold one. Whole documents are held out for the benchmark.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from stillroom import chat_format, summary
from stillroom.artifacts import atomic_directory, sha256, write_json, write_jsonl
from stillroom.chat_format import ChatFormat, Tokenizer, load_tokenizer
from stillroom.draws import drawn, held_out, rng
from stillroom.fitting import Draft, Fit, fitted
from stillroom.params import Block, Endpoint, Sampling, Teacher
from stillroom.progress import tracked
from stillroom.records import Conversation, Message, write_conversations
from stillroom.sources import documents
from stillroom.sources.chunks import split
from stillroom.sources.documents import Document
from stillroom.squad import normalise
from stillroom.teacher import snapshot
from stillroom.teacher.cache import Cache
from stillroom.teacher.client import Asker, ask_all
from stillroom.teacher.prompts import ANSWER_TAG, answer_messages, question_messages
from stillroom.teacher.replies import FAULTS, cleaned, fault, quotes, spaced
from stillroom.teacher.requests import Answer, Dialogue, Request

REFUSED = "The documents do not hold the answer."
REFUSAL = f"None of the documents answers this question.\n{ANSWER_TAG} {REFUSED}"
"""what the student learns to say where the oracle was taken away and it must not guess"""
GREEDY = Sampling(max_tokens=1024, temperature=0, top_p=1, top_k=None, repetition_penalty=None)
CANDIDATES = 20
"""passages looked at for each distractor that is wanted"""


class Params(Block):
    """The `raft` block of params.yaml."""

    common_keys = ("seed", "chat_format", "context_length", "teacher")
    shared_blocks = ("endpoint",)

    seed: int = 42
    """of the held-out documents and of what stands beside each oracle"""
    chat_format: str = "inst"
    """the format in which tokens are counted"""
    context_length: int = 32768
    """most tokens of an example; one that is longer gets fewer distractors"""
    teacher: Teacher = Teacher()
    """the model that writes questions and answers"""
    endpoint: Endpoint = Endpoint()
    """how it is reached"""
    chunk_size: int = Field(default=1000, ge=50)
    """most characters of a passage"""
    chunk_overlap: int = Field(default=100, ge=0)
    """characters that a passage may share with the one before"""
    shortest_chunk: int = Field(default=100, ge=1)
    """passages of fewer characters are left out"""
    questions_per_chunk: int = Field(default=5, ge=1)
    """asked for, and at most kept"""
    distractors: int = Field(default=4, ge=0)
    """passages beside the oracle"""
    oracle_probability: float = Field(default=0.8, ge=0, le=1)
    """P: share of the answered training examples that show their oracle; else it is to be remembered"""
    refusal_share: float = Field(default=0.1, ge=0, le=1)
    """share of all examples: the oracle is taken away, and right is to say that nothing holds the answer"""
    eval_share: float = Field(default=0.1, ge=0, lt=1)
    """share of the documents held out for the benchmark; above 0, at least one of two or more"""
    answer_tokens: int = Field(default=512, ge=1)
    """room that an evaluation prompt leaves for the answer: at least evaluate.raft.max_tokens"""
    questions: Sampling = Sampling(
        max_tokens=512, temperature=0, top_p=1, top_k=None, repetition_penalty=None
    )
    """how questions are drawn"""
    answers: Sampling = GREEDY
    """how answers are drawn"""

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> Params:
        if self.chunk_overlap >= self.chunk_size:
            raise ValueError("chunk_overlap must be smaller than chunk_size")
        return self


@dataclass(frozen=True)
class Paths:
    """Where dvc.yaml says that things lie."""

    documents: Path = Path("data/raw/documents")
    teacher: Path = Path("models/teacher")
    base: Path = Path("models/base")
    train: Path = Path("data/interim/raft.jsonl")
    records: Path = Path("data/interim/raft-records.jsonl")
    answers: Path = Path("data/interim/raft-answers.parquet")
    benchmark: Path = Path("data/benchmarks/raft")
    metrics: Path = Path("reports/metrics/raft.json")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of a document; `id` is `document#number`."""

    id: str
    document: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A question about a passage and the teacher's answer, with the keys of the requests that gave them."""

    id: str
    chunk: Chunk
    question: str
    cot_answer: str
    question_key: str
    answer_key: str

    @property
    def answer(self) -> str:
        """The short answer, after the tag."""
        return self.cot_answer.rpartition(ANSWER_TAG)[2].strip()


@dataclass(frozen=True, slots=True)
class Plan:
    """What stands beside a question: `others` in the order in which they are used, the oracle at `place`."""

    pair: Pair
    others: tuple[Chunk, ...]
    oracle: bool
    refusal: bool
    place: float

    def context(self, count: int) -> list[Chunk]:
        """`count` passages, the oracle among them where it is shown."""
        if not self.oracle:
            return list(self.others[:count])
        shown = list(self.others[: count - 1])
        shown.insert(int(self.place * count), self.pair.chunk)
        return shown

    @property
    def cot_answer(self) -> str:
        """What the student learns to say."""
        return REFUSAL if self.refusal else self.pair.cot_answer

    @property
    def answer(self) -> str:
        """The part after the tag."""
        return REFUSED if self.refusal else self.pair.answer


def run(paths: Paths, params: Params) -> None:
    """Write training conversations, records, answers, benchmark and metrics.

    Raises EndpointError where the teacher cannot be asked; what was answered stays in the response cache.
    """
    chat, tokenizer = chat_format.get(params.chat_format), load_tokenizer(paths.base)
    counts: Counter[str] = Counter()
    chunks = passages(documents.read_documents(paths.documents), params, counts)
    with Cache() as cache:
        answered, used = asked(chunks, paths, params, chat, cache, counts) if chunks else ([], [])
        snapshot.write(paths.answers, cache, used)
    held = held_out((chunk.document for chunk in chunks), params.eval_share, params.seed)
    train_pool = [chunk for chunk in chunks if chunk.document not in held]
    train_pairs = [pair for pair in answered if pair.chunk.document not in held]
    eval_pairs = [pair for pair in answered if pair.chunk.document in held]
    train = plans(train_pairs, train_pool, params, params.oracle_probability)
    evaluation = plans(eval_pairs, chunks, params, 1.0)
    kept = fit(train, params.context_length, chat, tokenizer, counts)
    room = params.context_length - params.answer_tokens
    kept_eval = fit(evaluation, room, chat, tokenizer, counts, prompt=True)
    write_conversations(paths.train, (found.conversation for _, found in kept if found.conversation))
    write_jsonl(paths.records, (record(n, made, found.documents) for n, (made, found) in enumerate(kept)))
    with atomic_directory(paths.benchmark) as folder:
        rows = (found.conversation for _, found in kept_eval if found.conversation)
        write_conversations(folder / "eval.jsonl", rows)
    figures = metrics(counts, kept, kept_eval)
    print(
        f"raft: answers rejected {figures['answers_rejected']}, dropped {figures['dropped']}", file=sys.stderr
    )
    write_json(paths.metrics, figures)


def passages(files: Iterable[Document], params: Params, counts: Counter[str]) -> list[Chunk]:
    """The documents' passages in order, exact repeats and short ones left out and counted."""
    found: dict[str, Chunk] = {}
    for document in files:
        counts["documents"] += 1
        texts = split(document.text, params.chunk_size, params.chunk_overlap)
        for number, text in enumerate(texts):
            if len(text) < params.shortest_chunk:
                counts["short_chunks"] += 1
            elif (same := spaced(text)) in found:
                counts["duplicate_chunks"] += 1
            else:
                found[same] = Chunk(f"{document.id}#{number:04}", document.id, document.title, text)
    counts["chunks"] = len(found)
    return list(found.values())


def asked(
    chunks: Sequence[Chunk],
    paths: Paths,
    params: Params,
    chat: ChatFormat,
    cache: Cache,
    counts: Counter[str],
) -> tuple[list[Pair], list[str]]:
    """Ask for questions, then for answers; return the pairs and the keys of all answers used."""
    snapshot.restore(paths.answers, cache)
    teacher, endpoint = params.teacher, params.endpoint
    with Asker(teacher, endpoint, paths.teacher, chat, cache, params.seed, "raft") as asker:
        number = params.questions_per_chunk
        requests = [Request(question_messages(c.text, number), params.questions) for c in chunks]
        wanted = questions(chunks, ask_all(requests, asker), number, counts)
        requests = [Request(answer_messages(c.text, text), params.answers) for c, text, _ in wanted]
        return pairs(wanted, ask_all(requests, asker), counts), asker.used()


def dialogues(folder: Path, params: Params) -> Iterator[Dialogue[None]]:
    """What `asked` asks, passage by passage: for an estimate of what that costs."""
    seen: set[str] = set()
    for chunk in passages(documents.read_documents(folder), params, Counter()):
        yield interview(chunk, params, seen)


def interview(chunk: Chunk, params: Params, seen: set[str]) -> Dialogue[None]:
    """Ask for questions about a passage, and for answers to those that no other passage has."""
    number = params.questions_per_chunk
    written = yield Request(question_messages(chunk.text, number), params.questions)
    texts = [text for _, text, _ in questions([chunk], [written], number, Counter())]
    new = [text for text in texts if text.casefold() not in seen]
    seen.update(text.casefold() for text in new)
    for text in new:
        yield Request(answer_messages(chunk.text, text), params.answers)


def questions(
    chunks: Sequence[Chunk], answers: Sequence[Answer], most: int, counts: Counter[str]
) -> list[tuple[Chunk, str, str]]:
    """(passage, question, key) of every question, the same question once; counts what is left out."""
    found: dict[str, tuple[Chunk, str, str]] = {}
    for chunk, answer in zip(chunks, answers, strict=True):
        lines = [line for line in map(cleaned, answer.text.splitlines()) if line]
        asking = [line for line in lines if line.endswith("?")]
        counts["not_a_question"] += len(lines) - len(asking)
        for text in asking[:most]:
            if text.casefold() in found:
                counts["duplicate_questions"] += 1
            found.setdefault(text.casefold(), (chunk, text, answer.key))
    counts["questions"] = len(found)
    return list(found.values())


def pairs(
    wanted: Sequence[tuple[Chunk, str, str]], answers: Sequence[Answer], counts: Counter[str]
) -> list[Pair]:
    """The answers that hold, with their questions; the others are counted as `rejected_REASON`."""
    kept = []
    for (chunk, question, key), answer in zip(wanted, answers, strict=True):
        reason = fault(answer.text, answer.finish_reason, chunk.text)
        if reason:
            counts[f"rejected_{reason}"] += 1
            continue
        id = f"raft-{sha256(f'{chunk.id} {question}')[:12]}"
        kept.append(Pair(id, chunk, question, answer.text.strip(), key, answer.key))
    return kept


def plans(
    pairs: Sequence[Pair], pool: Sequence[Chunk], params: Params, oracle_probability: float
) -> list[Plan]:
    """Draw what stands beside each question; the shares of refusals and of shown oracles are kept exactly."""
    refused = drawn((p.id for p in pairs), params.refusal_share, params.seed, "refusal")
    answered = [p.id for p in pairs if p.id not in refused]
    shown = drawn(answered, oracle_probability, params.seed, "oracle")
    return [plan(p, pool, params, oracle=p.id in shown, refusal=p.id in refused) for p in pairs]


def plan(pair: Pair, pool: Sequence[Chunk], params: Params, *, oracle: bool, refusal: bool) -> Plan:
    """Draw the passages beside a question and the oracle's place among them.

    None of them holds the quotation; for a refusal, none holds the short answer either.
    """
    draw = rng(params.seed, "raft", pair.id)
    place = draw.random()
    wanted = params.distractors + (not oracle)
    candidates = draw.sample(range(len(pool)), min(len(pool), CANDIDATES * (wanted + 1)))
    others = (pool[i] for i in candidates if pool[i].id != pair.chunk.id)
    silent = (chunk for chunk in others if not tells(chunk.text, pair, refusal))
    return Plan(pair, tuple(islice(silent, wanted)), oracle, refusal, place)


def tells(text: str, pair: Pair, refusal: bool) -> bool:
    """Whether a passage gives the answer away."""
    if any(spaced(quote) in spaced(text) for quote in quotes(pair.cot_answer)):
        return True
    return refusal and f" {normalise(pair.answer)} " in f" {normalise(text)} "


def fit(
    plans: Sequence[Plan],
    limit: int,
    chat: ChatFormat,
    tokenizer: Tokenizer,
    counts: Counter[str],
    *,
    prompt: bool = False,
) -> list[tuple[Plan, Fit]]:
    """Write the examples, with as many passages as fit; those that cannot be written are counted."""
    most = [len(p.others) + p.oracle for p in plans]
    possible = [(p, n) for p, n in zip(plans, most, strict=True) if n]
    counts["no_distractor"] += len(plans) - len(possible)
    drafts = (Draft(partial(conversation, p), n, 1) for p, n in possible)
    kept = []
    fits = tracked(fitted(drafts, limit, chat, tokenizer, prompt=prompt), "raft", len(possible), "examples")
    for (made, n), found in zip(possible, fits, strict=True):
        if found.conversation is None:
            counts["too_long"] += 1
            continue
        counts["shortened"] += found.documents < n
        kept.append((made, found))
    return kept


def instruction(plan: Plan, count: int) -> str:
    """The passages, one a line in recipe C's marks, and the question."""
    shown = "".join(f"<DOCUMENT>{chunk.text}</DOCUMENT>\n" for chunk in plan.context(count))
    return shown + plan.pair.question


def conversation(plan: Plan, count: int) -> Conversation:
    """The example with `count` passages."""
    pair, shown = plan.pair, plan.context(count)
    meta = {
        "question": pair.question,
        "oracle": pair.chunk.text,
        "document": pair.chunk.document,
        "chunk": pair.chunk.id,
        "answer": plan.answer,
        "refusal": plan.refusal,
        "oracle_shown": plan.oracle,
        "distractors": [chunk.id for chunk in shown if chunk.id != pair.chunk.id],
        "turns": [{"question_key": pair.question_key, "key": pair.answer_key}],
        "group": pair.chunk.document,
    }
    if plan.refusal:
        meta["oracle"] = ""
    messages = (Message("user", instruction(plan, count)), Message("assistant", plan.cot_answer))
    return Conversation(pair.id, "raft", messages, meta)


def record(number: int, plan: Plan, count: int) -> dict[str, Any]:
    """The example in recipe C's shape; the lists of `context` are nested as RAFT publishes them."""
    shown = plan.context(count)
    return {
        "id": f"seed_task_{number:06}",
        "type": "general",
        "question": plan.pair.question,
        "context": {"title": [[c.title for c in shown]], "sentences": [[c.text for c in shown]]},
        "oracle_context": "" if plan.refusal else plan.pair.chunk.text,
        "cot_answer": plan.cot_answer,
        "instruction": instruction(plan, count),
    }


def metrics(
    counts: Counter[str], train: Sequence[tuple[Plan, Fit]], evaluation: Sequence[tuple[Plan, Fit]]
) -> dict[str, Any]:
    """Counts from documents to examples, rejected answers by reason, and lengths in tokens."""
    rejected = {reason: counts[f"rejected_{reason}"] for reason in FAULTS}
    dropped = ("short_chunks", "duplicate_chunks", "not_a_question", "duplicate_questions")
    return {
        "documents": counts["documents"],
        "chunks": counts["chunks"],
        "questions": counts["questions"],
        "answers_rejected": rejected,
        "train": len(train),
        "train_oracle_shown": sum(made.oracle for made, _ in train),
        "train_refusals": sum(made.refusal for made, _ in train),
        "eval": len(evaluation),
        "eval_refusals": sum(made.refusal for made, _ in evaluation),
        "shortened": counts["shortened"],
        "dropped": {key: counts[key] for key in (*dropped, "no_distractor", "too_long")},
        "tokens": summary.lengths([found.tokens for _, found in train]),
    }
