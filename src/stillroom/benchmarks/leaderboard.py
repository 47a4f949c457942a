"""The six tasks of the Open LLM Leaderboard (v1), by lm-evaluation-harness.

data/benchmarks/leaderboard ──▶ lm-eval's tasks ──▶ log-probabilities, answers ──▶ a figure each, their mean

    stillroom evaluate tuned leaderboard          # needs the extra: pip install -e '.[leaderboard]'
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from pydantic import Field

from stillroom import endpoint_model
from stillroom.benchmarks import harness
from stillroom.benchmarks.base import Benchmark, Measure, Sample, mean
from stillroom.benchmarks.harness.definitions import DEFINITIONS
from stillroom.benchmarks.statistics import standard_error
from stillroom.progress import track
from stillroom.sources import leaderboard as source

if TYPE_CHECKING:
    from stillroom.benchmarks.at_endpoint import AtEndpoint
    from stillroom.benchmarks.harness.models import Local, Remote
    from stillroom.benchmarks.subject import Subject

Task = Literal["arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc2", "winogrande", "gsm8k"]
TITLES: dict[Task, str] = {
    "arc_challenge": "ARC challenge",
    "hellaswag": "HellaSwag",
    "mmlu": "MMLU",
    "truthfulqa_mc2": "TruthfulQA mc2",
    "winogrande": "Winogrande",
    "gsm8k": "GSM8K",
}
TITLE = "evaluate leaderboard"
CHAT = "a chat endpoint gives no log-probabilities of prompts: set `api` to completions in endpoint.json"
NO_TOKENIZER = "an endpoint's prompts are counted in tokens: set evaluate.leaderboard.tokenizer to a folder"


class Leaderboard(Benchmark):
    """Six tasks and their plain mean."""

    name: ClassVar[str] = "leaderboard"
    title: ClassVar[str] = "Open LLM Leaderboard v1"
    definition: ClassVar[str] = (
        "The plain mean of six tasks by lm-evaluation-harness, with the definitions that it installs, pinned "
        "by hash: ARC challenge 25-shot, HellaSwag 10-shot (acc_norm), MMLU 5-shot (acc over all questions; "
        "those of a subject are a group), TruthfulQA mc2 0-shot, Winogrande 5-shot (acc), GSM8K 5-shot "
        "(exact match, strict). Its standard error is √(Σ se²) / 6. Prompts are plain text without a chat "
        "format, few-shot examples are drawn by lm-eval's seed 1234; of prompts longer than the model's "
        "positions the beginning is left out, as lm-eval does, and they are counted."
    )

    tasks: Annotated[list[Task], Field(min_length=1)] = list(TITLES)
    """which of the six; their mean is the leaderboard's only where all are there"""
    limit: Annotated[int | None, Field(ge=1)] = None
    """most questions of a task (of mmlu: of a subject), the first ones; null asks all"""
    tokenizer: str | None = None
    """folder of the tokenizer of a model at an endpoint: without it, such a model is skipped"""

    def run(self, data: Path, subject: Subject) -> list[Sample]:
        """Ask every question of the tasks whose rows the folder holds, task by task."""
        present = [task for task in source.present(data) if task in self.tasks]
        if not present:
            return []
        harness.ready()
        from stillroom.benchmarks.harness import run, tasks

        samples: list[Sample] = []
        with TemporaryDirectory(prefix="stillroom-") as work, self._asked(subject) as (lm, note):
            built = {task: tasks.build(data, task, Path(work, task)) for task in present}
            for task in present:
                if lm is None or (note and task != "gsm8k"):
                    samples += run.skipped(task, built.pop(task), self.limit, note)
                else:
                    samples += run.examine(task, built.pop(task), lm, self.limit)
        return sorted(samples, key=lambda sample: sample.id)

    @contextmanager
    def _asked(self, subject: Subject) -> Iterator[tuple[Local | Remote | None, str]]:
        """What lm-eval asks, and why it cannot be asked for log-probabilities."""
        from stillroom.benchmarks.harness import models

        model = endpoint_model.find(subject.folder)
        if model is None:
            with track(TITLE, None, "requests") as progress:
                given = (subject.generator, subject.batch_tokens, subject.findings)
                yield models.Local(*given, progress.advance), ""
        elif model.api == "chat":
            yield None, CHAT
        elif self.tokenizer is None:
            yield None, NO_TOKENIZER
        else:
            away, tokenizer = cast("AtEndpoint", subject), Path(self.tokenizer)
            with ExitStack() as stack:
                ask = stack.enter_context(away.asking(TITLE))
                lm = models.Remote(away, tokenizer, ask)
                if note := models.refusal(away, lm, ask):
                    stack.close()
                    lm = models.Remote(away, tokenizer, stack.enter_context(away.asking(TITLE)))
                yield lm, note

    def provenance(self) -> dict[str, Any]:
        """The pinned definitions, and which lm-eval computed with them."""
        installed = version("lm_eval") if harness.installed() else None
        pinned = {task: DEFINITIONS[task].sha256 for task in self.tasks}
        return {"lm_eval": installed, "definitions": pinned}

    @classmethod
    def measures(cls, samples: Sequence[Sample]) -> list[Measure]:
        """The mean of the tasks."""
        scored = {task_of(sample) for sample in samples if "score" in sample.scores}
        present = scored or {task_of(sample) for sample in samples}
        name = "mean of six" if len(present) == len(source.TASKS) else f"mean of {len(present)} of six tasks"
        return [Measure("score", name, "share", "higher", tasks=True)]

    @classmethod
    def parts(cls, samples: Sequence[Sample]) -> dict[str, Measure]:
        """Each task's own figure."""
        scored = {task_of(sample) for sample in samples if "score" in sample.scores}
        return {
            title: Measure(
                task, f"{DEFINITIONS[task].metric}, {DEFINITIONS[task].shots}-shot", "share", "higher"
            )
            for task, title in TITLES.items()
            if task in scored
        }

    @classmethod
    def about(cls, measure: Measure, samples: Sequence[Sample]) -> Sequence[Sample]:
        """A task's own, or all."""
        return [s for s in samples if task_of(s) == measure.key] if measure.key in TITLES else samples

    @classmethod
    def details(cls, samples: Sequence[Sample]) -> dict[str, Any]:
        """MMLU's plain mean of subjects, GSM8K by the last number of an answer, and prompts that were cut."""
        scored = [sample for sample in samples if sample.status == "scored"]
        subjects: dict[str, list[float]] = {}
        for sample in scored:
            if "mmlu" in sample.scores:
                subjects.setdefault(sample.group.removeprefix("mmlu/"), []).append(sample.scores["mmlu"])
        means = {subject: sum(values) / len(values) for subject, values in sorted(subjects.items())}
        measures = [*cls.measures(scored), *cls.parts(scored).values()] if scored else []
        return {
            "mean_of_six": measures[0].numbers(scored).value() if len(measures) == 7 else None,
            "standard_errors": {m.key: standard_error(m.numbers(scored)) for m in measures},
            "mmlu_mean_of_subjects": sum(means.values()) / len(means) if means else None,
            "mmlu_by_subject": means,
            "gsm8k_flexible": mean(scored, "flexible"),
            "truncated": sum("truncated" in sample.scores for sample in scored),
        }


def task_of(sample: Sample) -> str:
    """The task that an id begins with."""
    return sample.id.partition("/")[0]
