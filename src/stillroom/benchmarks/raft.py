"""Questions about the user's own documents: asked with them, without any, and with what a search finds.

data/benchmarks/raft/{eval,passages}.jsonl ──▶ answers ──▶ exact match, ROUGE-L, refusals, precision
        ──▶ judge, where there is one ──▶ share judged right, consistency
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from stillroom.benchmarks import rouge
from stillroom.benchmarks.base import Measure, Sample, Scores, mean, meta
from stillroom.benchmarks.judge import Judge, Judged, invalid, said
from stillroom.benchmarks.raft_contexts import Context, accompanied, context_of
from stillroom.benchmarks.subject import Subject
from stillroom.raft.plans import REFUSED
from stillroom.records import Conversation, Message
from stillroom.squad import normalise
from stillroom.teacher.prompts import ANSWER_TAG, QUOTE_BEGIN, QUOTE_END
from stillroom.teacher.requests import Answer, Dialogue

YES, NO = "YES", "NO"
JUDGED = "judged_right"
TITLES: dict[Context, str] = {
    "given": "Document questions, given the documents",
    "plain": "Document questions, no documents",
    "retrieved": "Document questions, documents retrieved",
}
FORM = f"Reason first{{quoting}}. End with a line `{ANSWER_TAG} ` and the short answer alone{{or_refuse}}."
QUOTING = f", quoting the documents between {QUOTE_BEGIN} and {QUOTE_END}"
OR_REFUSE = f"; if the documents do not hold it: `{ANSWER_TAG} {REFUSED}`"


class RightJudge(Judge):
    """The judge of an answer beside the right one."""

    placeholders: ClassVar[frozenset[str]] = frozenset({"question", "answers"})
    words: ClassVar[str] = (
        "A question was answered. Say whether the answer is right: whether it says what the reference "
        "answer says, in whatever words, and nothing that contradicts it.\n\n"
        "<question>\n{question}\n</question>\n\n"
        "{answers}\n\n"
        "Reply with YES or NO and nothing else."
    )
    """{answers} stands for the right answer and the one to judge, each in its marks, in either order"""

    order_swap: bool = True
    """ask a second time with the two answers swapped, for the figure of consistency alone: twice the price"""

    def compare(self, question: str, gold: str, given: str, *, swapped: bool) -> Dialogue[Answer]:
        """Ask whether the answer that was given is right."""
        marked = {"reference_answer": gold, "answer_to_judge": given}
        parts = [f"<{name}>\n{text}\n</{name}>" for name, text in marked.items()]
        answers = "\n\n".join(parts[::-1] if swapped else parts)
        return (yield self.request(question=question, answers=answers))


class Raft(Judged):
    """Questions about documents."""

    name: ClassVar[str] = "raft"
    title: ClassVar[str] = "Document questions (RAFT)"
    definition: ClassVar[str] = (
        "Exact match of what follows the last `<ANSWER>:`, normalised as SQuAD does, over the questions "
        "that the documents answer; an answer without the tag is wrong. Each question is asked given its "
        "passage among distractors, alone, and with the passages that BM25 finds for it in all documents. "
        "Precision = exact match / (1 − refusals / total). Questions whose passage was taken away "
        "count apart: right is to refuse. Questions about one passage are one group. Models named in "
        "`evaluate.raft.instructed` are told the form of an answer, which the others have learned. A "
        "judge, where one is set, sees question, right answer and answer, and says YES or NO; anything else "
        "is no verdict, counted and left out of its share. Consistency: the same verdict with the two "
        "answers swapped."
    )

    max_tokens: int = 512
    """most tokens of an answer, its reasoning included"""
    refusals: list[str] = [
        "do not hold",
        "does not hold",
        "do not contain",
        "does not contain",
        "cannot answer",
    ]
    """an answer that holds one of these refuses (compared after normalisation)"""
    contexts: Annotated[list[Context], Field(min_length=1)] = ["given", "plain", "retrieved"]
    """what a question is asked with: its documents among distractors, none, those that a search finds"""
    retrieved: Annotated[int, Field(ge=1)] = 5
    """passages that the search gives"""
    instructed: list[str] = ["base"]
    """models that are told the form of an answer: those that were not trained on it"""
    judge: RightJudge | None = None
    """a model that says which answers are right; null: none is asked"""

    def asked(self, data: Path, seed: int) -> list[Conversation]:
        """The chosen questions, each in its contexts. Raises InputError where there is nothing to search."""
        return list(accompanied(super().asked(data, seed), data, self.contexts, self.retrieved))

    def group(self, record: Conversation) -> str:
        """Questions about one passage, in whatever context."""
        return str(record.meta.get("chunk", self.unit(record)))

    def unit(self, record: Conversation) -> str:
        """A question, in whatever context."""
        return self.record_of(record.id)

    def record_of(self, id: str) -> str:
        """The question of a sample, in whatever context."""
        return context_of(id)[0]

    def run(self, data: Path, subject: Subject) -> list[Sample]:
        """Ask every chosen question in every context, with the form of an answer where it is not known."""
        records = self.asked(data, subject.seed)
        if subject.folder.name in self.instructed:
            records = [told(record) for record in records]
        return self.ask(records, subject)

    def gold(self, record: Conversation) -> list[str]:
        """The short answer."""
        return [answer] if normalise(answer := meta(record, "answer", str)) else []

    def score(self, record: Conversation, output: str, gold: Sequence[str]) -> Scores:
        """Exact match and ROUGE-L of the answer, whether it has the tag, and whether it refuses.

        Of other contexts than the given one, the names of the scores begin with the context's.
        """
        context = context_of(record.id)[1]
        return {key(context, name): value for name, value in self._score(record, output, gold).items()}

    def _score(self, record: Conversation, output: str, gold: Sequence[str]) -> Scores:
        answer = tagged(output)
        said = output if answer is None else answer
        refused = float(self.refuses(said))
        if meta(record, "refusal", bool):
            return {"right_refusal": refused}
        exact = float(answer is not None and normalise(answer) == normalise(gold[0]))
        searched = {"found": float(record.meta["found"])} if "found" in record.meta else {}
        return searched | {
            "exact_match": exact,
            "rouge_l": round(rouge.rouge(gold[0], said)["rougeL"], 6),
            "tagged": float(answer is not None),
            "refused": refused,
        }

    def verdict(self, record: Conversation, sample: Sample, seed: int) -> Dialogue[Sample]:
        """Ask whether the answer is right; nobody is asked about refusals' questions and empty answers."""
        output = sample.output or ""
        answer = tagged(output)
        given = output.strip() if answer is None else answer
        if self.judge is None or meta(record, "refusal", bool):
            return sample
        if not given:
            return judged(sample, {"verdict": 1.0, JUDGED: 0.0})
        question, gold = meta(record, "question", str), sample.gold[0]
        reply = yield from self.judge.compare(question, gold, given, swapped=False)
        first = said(reply, (YES, NO))
        if first is None:
            return replace(judged(sample, {"verdict": 0.0}), note=invalid(reply))
        found = {"verdict": 1.0, JUDGED: float(first == YES)}
        if self.judge.order_swap:
            reply = yield from self.judge.compare(question, gold, given, swapped=True)
            if second := said(reply, (YES, NO)):
                found["consistent"] = float(first == second)
        return judged(sample, found)

    def refuses(self, said: str) -> bool:
        """Whether the text holds one of the phrases of refusal."""
        text = f" {normalise(said)} "
        return any(f" {normalise(phrase)} " in text for phrase in self.refusals)

    @classmethod
    def measures(cls, samples: Sequence[Sample]) -> list[Measure]:
        """Exact match, then ROUGE-L, and what the judge said: of the first context that was asked in."""
        return list(of_context(contexts(samples)[0], samples))

    @classmethod
    def parts(cls, samples: Sequence[Sample]) -> dict[str, Measure]:
        """The other contexts by exact match, and every one by the judge."""
        found: dict[str, Measure] = {}
        for place, context in enumerate(contexts(samples)):
            exact, _, *by_judge = of_context(context, samples)
            found |= {TITLES[context]: exact} if place else {}
            found |= {f"{TITLES[context]}, by the judge": each for each in by_judge}
        return found

    @classmethod
    def about(cls, measure: Measure, samples: Sequence[Sample]) -> Sequence[Sample]:
        """Those of its context."""
        context = next((c for c in TITLES if measure.key.startswith(f"{c}_")), "given")
        return [sample for sample in samples if context_of(sample.id)[1] == context]

    @classmethod
    def details(cls, samples: Sequence[Sample]) -> dict[str, Any]:
        """Figures of the first context, refusals where they are right, and figures of each other context."""
        first, *others = contexts(samples)
        return {
            **figures(samples, first),
            "right_refusal": mean(samples, "right_refusal"),
            **{context: figures(samples, context) for context in others},
        }


def key(context: Context, name: str) -> str:
    """The name of a score in a context."""
    return name if context == "given" else f"{context}_{name}"


def contexts(samples: Sequence[Sample]) -> list[Context]:
    """In which questions were asked, the headline's first."""
    present = {context_of(sample.id)[1] for sample in samples} or {"given"}
    return [context for context in TITLES if context in present]


def of_context(context: Context, samples: Sequence[Sample]) -> Iterator[Measure]:
    """Exact match, ROUGE-L, and what the judge said where one was asked."""
    yield measure(context, "exact_match", "exact match", "share")
    yield measure(context, "rouge_l", "ROUGE-L", "F1")
    if any(key(context, JUDGED) in s.scores for s in samples):
        yield measure(context, JUDGED, "judged right", "share")


def measure(context: Context, score: str, name: str, unit: str) -> Measure:
    """A score in a context, as a figure."""
    where = "" if context == "given" else f", {context}"
    return Measure(key(context, score), f"{name}{where}", unit, "higher")


def figures(samples: Sequence[Sample], context: Context) -> dict[str, Any]:
    """Shares over the answerable questions of a context, and precision.

    found: share of the questions whose passage the search found.
    """
    score, refused = (mean(samples, key(context, name)) for name in ("exact_match", "refused"))
    answered = None if refused is None else 1 - refused
    precision = score / answered if score is not None and answered else None
    names = ("rouge_l", "tagged") if context == "given" else ("exact_match", "rouge_l", "tagged")
    return {
        **{name: mean(samples, key(context, name)) for name in names},
        "refused": refused,
        "precision": precision,
        **({"found": mean(samples, key(context, "found"))} if context == "retrieved" else {}),
        **judge_figures(samples, context, answered),
    }


def judge_figures(samples: Sequence[Sample], context: Context, answered: float | None) -> dict[str, Any]:
    """What the judge said, and how far it is to be trusted; nothing where none was asked.

    answered: share of the questions that were not refused.
    """
    said = key(context, "verdict")
    verdicts = [s.scores[said] for s in samples if said in s.scores]
    if not verdicts:
        return {}
    found = measure(context, JUDGED, "judged right", "share").estimate(samples)
    right = sum(s.scores.get(key(context, JUDGED), 0.0) for s in samples)
    return {
        "judge": {
            "right": int(right),
            "wrong": int(sum(verdicts) - right),
            "invalid": verdicts.count(0.0),
            "share_right": found.value if found else None,
            "low": found.low if found else None,
            "high": found.high if found else None,
            "precision": found.value / answered if found and answered else None,
            "consistency": mean(samples, key(context, "consistent")),
        }
    }


def judged(sample: Sample, found: Scores) -> Sample:
    """The sample with what the judge said of it."""
    context = context_of(sample.id)[1]
    return replace(sample, scores=sample.scores | {key(context, name): found[name] for name in found})


def told(record: Conversation) -> Conversation:
    """The question with the form of an answer behind it."""
    alone = context_of(record.id)[1] == "plain"
    form = FORM.format(quoting="" if alone else QUOTING, or_refuse="" if alone else OR_REFUSE)
    asked, *rest = record.messages
    return replace(record, messages=(Message("user", f"{asked.content}\n\n{form}"), *rest))


def tagged(output: str) -> str | None:
    """What follows the last answer tag, None without one.

    >>> tagged("Because … <ANSWER>: Saturday")
    'Saturday'
    """
    _, tag, answer = output.rpartition(ANSWER_TAG)
    return answer.strip() if tag else None
