"""A folder of documents into questions, distractors and quoted answers (RAFT, arXiv:2403.10131).

data/raw/documents, prompts/, data/review/raft.jsonl ──▶ raft ──▶ data/interim/{raft.jsonl,raft-records.jsonl,
        raft-pairs.jsonl,raft-answers.parquet,raft-export}, data/benchmarks/raft/{eval,passages}.jsonl

    stillroom raft

The teacher writes questions about each passage (the oracle) and answers them from it alone, quoting it; an
answer that quotes what the passage does not say is repaired, asked for again or rejected. A person may review
the pairs (`stillroom raft review`). The student sees the oracle among other passages; in the share 1 - P
without it, and in refusals without it and with the answer that the documents do not hold one. Whole documents
are held out for the benchmark; all passages stand beside it, for a search. Pairs and examples are streamed;
in memory are the passages and the ids.
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import Field, model_validator

from stillroom import chat_format, summary
from stillroom.artifacts import atomic_directory, atomic_write, write_json, write_jsonl
from stillroom.draws import held_out
from stillroom.params import Block, Endpoint, Sampling, Teacher
from stillroom.progress import tracked
from stillroom.raft import interview, pairs, prompts, review
from stillroom.raft.answers import FAULTS, GOOD, Policies
from stillroom.raft.contexts import By, Contexts, Example, fit
from stillroom.raft.formats import Export, FileType, Format, conversation, record
from stillroom.raft.interview import Interview, Outcome
from stillroom.raft.pairs import Chunk, Side
from stillroom.raft.passages import Passages, Unit, cutting, gathered
from stillroom.raft.plans import Plan
from stillroom.raft.review import Decisions, reviewed
from stillroom.sorted_lines import SortedLines
from stillroom.sources.documents import REASONS, LeftOut, read_documents
from stillroom.teacher import snapshot
from stillroom.teacher.cache import Cache
from stillroom.teacher.client import Asker
from stillroom.teacher.requests import Dialogue

GREEDY = Sampling(max_tokens=1024, temperature=0, top_p=1, top_k=None, repetition_penalty=None)


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
    on_unreadable: Literal["stop", "skip"] = "stop"
    """on a document that cannot be read (torn, encrypted, not UTF-8): stop, or skip and count it"""
    chunk_size: int = Field(default=1000, ge=50)
    """most characters or tokens of a passage"""
    chunk_overlap: int = Field(default=100, ge=0)
    """of them, how many a passage may share with the one before"""
    chunk_unit: Unit = "characters"
    """what they count; tokens are the student's"""
    shortest_chunk: int = Field(default=100, ge=1)
    """passages of fewer characters are left out"""
    near_threshold: float | None = Field(default=0.9, gt=0, le=1)
    """least Jaccard similarity (runs of 5 words) with a passage that leaves a later one out; null: none is"""
    prompts: str | None = Field(default=None, pattern=r"^[^/\\]+\.yaml$")
    """file of the folder prompts/ with the words that ask for questions and answers; null: built in"""
    questions_per_chunk: int = Field(default=5, ge=1)
    """asked for, and at most kept"""
    policies: Policies = Policies()
    """what becomes of answers that cannot be used as they are"""
    reviewed_only: bool = False
    """whether the benchmark holds only pairs that a person kept: stillroom raft review"""
    distractors: int = Field(default=4, ge=0)
    """passages beside the oracle"""
    distractors_by: By = "random"
    """random passages, or those most similar to the question (BM25), as a search would return them"""
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
    formats: list[Format] = []
    """data sets for other trainers, in data/interim/raft-export; eval is of the held-out documents"""
    file_type: FileType = "jsonl"
    """of these data sets"""
    system_prompt: str | None = None
    """system prompt of the format chat"""

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
    prompts: Path = Path("prompts")
    review: Path = Path("data/review/raft.jsonl")
    train: Path = Path("data/interim/raft.jsonl")
    records: Path = Path("data/interim/raft-records.jsonl")
    pairs: Path = Path("data/interim/raft-pairs.jsonl")
    answers: Path = Path("data/interim/raft-answers.parquet")
    export: Path = Path("data/interim/raft-export")
    benchmark: Path = Path("data/benchmarks/raft")
    metrics: Path = Path("reports/metrics/raft.json")


@dataclass
class Tally:
    """What is counted on the way."""

    counts: Counter[str] = field(default_factory=Counter)
    """documents, passages, and examples that were cut or could not be written"""
    alike: list[str] = field(default_factory=list)
    """the first passages that were left out as near-duplicates, and of what"""
    interviews: interview.Tally = field(default_factory=interview.Tally)
    review: Counter[tuple[Side, review.Status]] = field(default_factory=Counter)
    examples: defaultdict[Side, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    tokens: array[int] = field(default_factory=lambda: array("Q"))
    """lengths of the training examples"""

    def add(self, side: Side, plan: Plan, tokens: int) -> None:
        """Count an example."""
        self.examples[side].update(examples=1, refusals=plan.refusal, oracle_shown=plan.oracle)
        if side == "train":
            self.tokens.append(tokens)


def run(paths: Paths, params: Params) -> None:
    """Write pairs, training conversations, records, answers, export, benchmark and metrics.

    Raises ParamsError for prompts that lack something, InputError for documents or decisions that cannot be
    read, EndpointError where the teacher cannot be asked; what was answered stays in the response cache.
    """
    tally, decisions = Tally(), review.read(paths.review)
    settings = interviewing(paths.prompts, params)
    found = passages(paths.documents, params, paths.base)
    chunks, tally.alike = found.chunks, found.alike
    tally.counts.update(found.counts)
    held = held_out((chunk.document for chunk in chunks), params.eval_share, params.seed)
    with SortedLines() as answered:
        ask(chunks, answered, settings, paths, params, tally)
        distinct = interview.distinct(answered, chunks, held, tally.interviews.questions)
        write_jsonl(paths.pairs, map(pairs.row, distinct))
    write(paths, params, decisions, chunks, held, tally)
    stale = decisions.stale(pair.identity for pair in pairs.read_pairs(paths.pairs))
    figures = {**metrics(tally, len(stale)), **snapshot.bought(paths.answers)}
    print(f"raft: answers {figures['answers']}, review {figures['review']}", file=sys.stderr)
    write_json(paths.metrics, figures)


def passages(folder: Path, params: Params, base: Path) -> Passages:
    """A folder's documents in passages. base: the model whose tokens may be counted.

    Raises InputError for documents that cannot be read, ModelError where tokens are wanted and base has none.
    """
    left_out = LeftOut()
    found = gathered(
        read_documents(folder, unreadable=params.on_unreadable, left_out=left_out),
        cutting(params.chunk_size, params.chunk_overlap, params.chunk_unit, base),
        shortest=params.shortest_chunk,
        near_threshold=params.near_threshold,
    )
    found.counts.update(left_out.counts)
    return found


def interviewing(folder: Path, params: Params) -> Interview:
    """How passages are asked about, with the prompts of that folder."""
    return Interview(
        prompts.load(folder, params.prompts),
        params.questions_per_chunk,
        params.questions,
        params.answers,
        params.policies,
    )


def dialogues(folder: Path, params: Params) -> Callable[[], Iterator[Dialogue[Outcome]]]:
    """What makes the dialogues about a folder of documents, read once: for an estimate of what they cost."""
    chunks = passages(folder, params, Paths().base).chunks
    return partial(interview.dialogues, chunks, interviewing(Paths().prompts, params))


def ask(
    chunks: Sequence[Chunk],
    answered: SortedLines,
    settings: Interview,
    paths: Paths,
    params: Params,
    tally: Tally,
) -> None:
    """Ask about every passage; keep the answers that can be used, and a snapshot of all."""

    def done(index: int, outcome: Outcome) -> None:
        tally.interviews.add(outcome)
        if line := interview.line(index // settings.count, outcome):
            answered.add(f"{index:012}", line)

    chat = chat_format.get(params.chat_format)
    with Cache() as cache:
        snapshot.restore(paths.answers, cache)
        with Asker(params.teacher, params.endpoint, paths.teacher, chat, cache, params.seed, "raft") as asker:
            total = len(chunks) * settings.count
            asker.run(lambda: interview.dialogues(chunks, settings), done, total=total, unit="questions")
        snapshot.write(paths.answers, cache, asker.used())


def write(
    paths: Paths,
    params: Params,
    decisions: Decisions,
    chunks: Sequence[Chunk],
    held: frozenset[str],
    tally: Tally,
) -> None:
    """Write the examples of both sides and the export, from the file of pairs."""
    chat, tokenizer = chat_format.get(params.chat_format), chat_format.load_tokenizer(paths.base)
    ids: dict[Side, list[str]] = {"train": [], "eval": []}
    for pair in reviewed(paths.pairs, decisions, params.reviewed_only, tally.review):
        ids[pair.side].append(pair.id)
    if params.reviewed_only and held and not ids["eval"]:
        print("raft: warning: no held-out pair is kept: stillroom raft review", file=sys.stderr)

    def examples(side: Side, pool: Sequence[Chunk], probability: float, limit: int) -> Iterator[Example]:
        beside = Contexts(
            ids[side],
            pool,
            seed=params.seed,
            distractors=params.distractors,
            by=params.distractors_by,
            refusal_share=params.refusal_share,
            oracle_probability=probability,
        )
        of_side = (p for p in reviewed(paths.pairs, decisions, params.reviewed_only) if p.side == side)
        plans = tracked(map(beside.plan, of_side), "raft", len(ids[side]), "examples")
        return fit(plans, limit, chat, tokenizer, tally.counts, prompt=side == "eval")

    pool = [chunk for chunk in chunks if chunk.document not in held]
    train = examples("train", pool, params.oracle_probability, params.context_length)
    evaluation = examples("eval", chunks, 1.0, params.context_length - params.answer_tokens)
    with (
        atomic_directory(paths.benchmark) as benchmark,
        atomic_directory(paths.export) as folder,
        Export(folder, params.formats, params.file_type, params.system_prompt) as export,
        atomic_write(paths.records) as records,
    ):

        def taught(row: dict[str, Any]) -> None:
            records.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            export.add(row, held_out=False)

        save(paths.train, train, "train", tally, taught)
        write_jsonl(benchmark / pairs.PASSAGES, map(pairs.passage_row, chunks if held else ()))
        save(benchmark / "eval.jsonl", evaluation, "eval", tally, partial(export.add, held_out=True))


def save(
    path: Path, examples: Iterable[Example], side: Side, tally: Tally, use: Callable[[dict[str, Any]], None]
) -> None:
    """Write the examples' conversations, sorted by id; hand their records to `use` as they come."""
    with SortedLines() as lines:
        for number, (plan, found) in enumerate(examples):
            tally.add(side, plan, found.tokens)
            made = conversation(plan, found.documents)
            lines.add(made.id, orjson.dumps(made, option=orjson.OPT_APPEND_NEWLINE))
            use(record(number, plan, found.documents))
        with atomic_write(path) as file:
            file.writelines(lines)


def metrics(tally: Tally, stale: int) -> dict[str, Any]:
    """Counts from documents to examples, what became of answers and pairs, and lengths in tokens."""
    counts, train, evaluation = tally.counts, tally.examples["train"], tally.examples["eval"]
    judged: dict[str, dict[str, int]] = {fault: {} for fault in (GOOD, *FAULTS)}
    for (fault, outcome), count in sorted(tally.interviews.judged.items()):
        judged[fault][outcome] = count
    decided: dict[str, Any] = {side: {} for side in ("train", "eval")}
    for (side, status), count in sorted(tally.review.items()):
        decided[side][status] = count
    answered = train["examples"] - train["refusals"]
    dropped = ("short_chunks", "duplicate_chunks", "near_duplicate_chunks", "no_distractor", "too_long")
    return {
        "documents": counts["documents"],
        "left_out": {reason: counts[reason] for reason in REASONS},
        "chunks": counts["chunks"],
        "questions": tally.interviews.figures(),
        "answers": judged,
        "review": {**decided, "stale": stale},
        "train": train["examples"],
        "train_oracle_shown": train["oracle_shown"],
        "train_refusals": train["refusals"],
        "oracle_probability": round(train["oracle_shown"] / answered, 4) if answered else None,
        "refusal_share": round(train["refusals"] / train["examples"], 4) if answered else None,
        "eval": evaluation["examples"],
        "eval_refusals": evaluation["refusals"],
        "shortened": counts["shortened"],
        "few_distractors": counts["few_distractors"],
        "dropped": {key: counts[key] for key in dropped},
        "near_duplicates": tally.alike,
        "tokens": summary.lengths(tally.tokens),
    }
