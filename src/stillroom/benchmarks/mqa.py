"""Questions over many documents, one of which holds the answer.

data/benchmarks/mqa/eval.jsonl ──▶ answers ──▶ accuracy, by number of documents and gold position
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from stillroom.benchmarks.base import Curve, Measure, Questions, Sample, Scores, meta
from stillroom.records import Conversation
from stillroom.squad import normalise

if TYPE_CHECKING:
    from stillroom.benchmarks.subject import Reply, Subject

ACCURACY = Measure("accuracy", "accuracy", "share", "higher")


def best_subspan_em(output: str, gold: Sequence[str]) -> float:
    """1 where the first line holds a gold answer (Lost in the Middle's metric), both normalised.

    >>> best_subspan_em("The Moon's far side.\\nDocument 2", ["far side"])
    1.0
    """
    said = normalise(output.split("\n")[0])
    return float(any(normalise(answer) in said for answer in gold))


def by(key: str) -> Callable[[Sequence[Sample]], dict[int, tuple[Measure, list[Sample]]]]:
    """Accuracy at each value of a whole-numbered score."""

    def points(samples: Sequence[Sample]) -> dict[int, tuple[Measure, list[Sample]]]:
        values = sorted({int(s.scores[key]) for s in samples if key in s.scores})
        return {value: (ACCURACY, [s for s in samples if s.scores.get(key) == value]) for value in values}

    return points


class Mqa(Questions):
    """Multi-document questions."""

    name: ClassVar[str] = "mqa"
    title: ClassVar[str] = "Multi-document QA"
    definition: ClassVar[str] = (
        "best_subspan_em of Lost in the Middle: the answer's first line, normalised as SQuAD does, holds a"
        " gold answer. Greedy, unless `evaluate.mqa.sampling` is set. Gold answers that normalise to "
        "nothing are refused, since they would always match; prompts that do not fit the model are skipped "
        "and counted; an answer counts as cut where its first line is. Questions about one gold passage are "
        "one group, with all their numbers of documents."
    )
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve("documents", "documents in the prompt", "accuracy", by("documents")),
        Curve("position", "gold document's place, % of the way", "accuracy", by("position")),
    )

    max_tokens: int = 100
    """most tokens of an answer"""

    def gold(self, record: Conversation) -> list[str]:
        """The answers that do not normalise to nothing."""
        return [a for a in meta(record, "answers", list) if normalise(str(a))]

    def group(self, record: Conversation) -> str:
        """Questions about one gold passage, each asked with several numbers of documents."""
        return str(record.meta.get("group", record.id))

    def score(self, record: Conversation, output: str, gold: Sequence[str]) -> Scores:
        """Right or wrong, with what the curves are drawn over."""
        documents, index = meta(record, "documents", int), meta(record, "gold_index", int)
        position = 25 * round(4 * index / max(documents - 1, 1))
        return {"accuracy": best_subspan_em(output, gold), "documents": documents, "position": position}

    def _sample(self, record: Conversation, subject: Subject, reply: Reply | None) -> Sample:
        """As any question's; what `max_tokens` cuts off behind the first line is not scored."""
        sample = super()._sample(record, subject, reply)
        if "\n" in (sample.output or ""):
            sample.scores["cut"] = 0.0
        return sample

    @classmethod
    def measures(cls, samples: Sequence[Sample]) -> list[Measure]:
        """Accuracy."""
        return [ACCURACY]
