"""Questions about the user's own documents, asked among distractors.

data/benchmarks/raft/eval.jsonl ──▶ greedy answers ──▶ exact match, ROUGE-L, refusals, precision
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from stillroom.benchmarks import rouge
from stillroom.benchmarks.base import Measure, Questions, Sample, Scores, mean, meta
from stillroom.records import Conversation
from stillroom.squad import normalise
from stillroom.teacher.prompts import ANSWER_TAG


class Raft(Questions):
    """Questions about documents."""

    name: ClassVar[str] = "raft"
    title: ClassVar[str] = "Document questions (RAFT)"
    definition: ClassVar[str] = (
        "Exact match of what follows the last `<ANSWER>:`, normalised as SQuAD does, over the questions "
        "that the documents answer; an answer without the tag is wrong. Precision = exact match / (1 − "
        "refusals / total). Questions whose document was taken away count apart: right is to refuse. No "
        "judge is asked."
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

    def gold(self, record: Conversation) -> list[str]:
        """The short answer."""
        return [answer] if normalise(answer := meta(record, "answer", str)) else []

    def score(self, record: Conversation, output: str, gold: Sequence[str]) -> Scores:
        """Exact match and ROUGE-L of the answer, whether it has the tag, and whether it refuses."""
        answer = tagged(output)
        said = output if answer is None else answer
        refused = float(self.refuses(said))
        if meta(record, "refusal", bool):
            return {"right_refusal": refused}
        exact = float(answer is not None and normalise(answer) == normalise(gold[0]))
        return {
            "exact_match": exact,
            "rouge_l": round(rouge.rouge(gold[0], said)["rougeL"], 6),
            "tagged": float(answer is not None),
            "refused": refused,
        }

    def refuses(self, said: str) -> bool:
        """Whether the text holds one of the phrases of refusal."""
        text = f" {normalise(said)} "
        return any(f" {normalise(phrase)} " in text for phrase in self.refusals)

    @classmethod
    def measures(cls, samples: Sequence[Sample]) -> list[Measure]:
        """Exact match, then ROUGE-L."""
        return [
            Measure("exact_match", "exact match", "share", "higher"),
            Measure("rouge_l", "ROUGE-L", "F1", "higher"),
        ]

    @classmethod
    def details(cls, samples: Sequence[Sample]) -> dict[str, Any]:
        """Shares over the answerable questions, precision, and refusals where they are right."""
        score, refused = mean(samples, "exact_match"), mean(samples, "refused")
        answered = None if refused is None else 1 - refused
        return {
            "rouge_l": mean(samples, "rouge_l"),
            "tagged": mean(samples, "tagged"),
            "refused": refused,
            "precision": score / answered if score is not None and answered else None,
            "right_refusal": mean(samples, "right_refusal"),
        }


def tagged(output: str) -> str | None:
    """What follows the last answer tag, None without one.

    >>> tagged("Because … <ANSWER>: Saturday")
    'Saturday'
    """
    _, tag, answer = output.rpartition(ANSWER_TAG)
    return answer.strip() if tag else None
