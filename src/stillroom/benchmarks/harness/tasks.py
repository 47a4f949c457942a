"""Rows ──▶ lm-evaluation-harness's own tasks over them.

data/benchmarks/leaderboard ──▶ a work folder of checked rows, and of YAML that includes the installed
definitions and names those rows ──▶ TaskManager ──▶ tasks
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import pyarrow
import yaml
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.tasks import TaskManager

from stillroom.artifacts import write_jsonl
from stillroom.benchmarks.harness.definitions import DEFINITIONS
from stillroom.errors import InputError
from stillroom.sources import leaderboard as source
from stillroom.sources.leaderboard import Row

INSTALLED = Path(lm_eval.__file__).parent / "tasks"


def build(data: Path, task: str, work: Path) -> dict[str, Any]:
    """lm-eval's tasks by name, `mmlu` one per subject.

    work: a new folder, which must live as long as the tasks.  Raises InputError naming file and record,
    ParamsError where lm-eval's definition is not the pinned one.
    """
    DEFINITIONS[task].check(INSTALLED)
    work.mkdir()
    names = list(mmlu(data, work)) if task == "mmlu" else [single(data, task, work)]
    datasets.disable_progress_bars()
    try:
        built = TaskManager(include_defaults=False, include_path=str(work)).load(names)["tasks"]
    except (datasets.exceptions.DatasetsError, pyarrow.ArrowException) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        hint = "one key holds values of one type in all rows"
        raise InputError(f"{task}: the rows make no table ({reason})", where=str(data), hint=hint) from None
    for each in built.values():
        each.set_fewshot_seed(DEFAULT_OTHER_SEED)
    return dict(built)


def single(data: Path, task: str, work: Path) -> str:
    """Lay out a task of one set."""
    examples = source.shots(data, task) if DEFINITIONS[task].shots else iter(())
    lay_out(data, task, task, source.asked(data, task), examples, work)
    return task


def mmlu(data: Path, work: Path) -> Iterator[str]:
    """Lay out the subjects of MMLU, each a task with examples of its own; yield their names."""
    asked = by_subject(source.asked(data, "mmlu"))
    examples = by_subject(source.shots(data, "mmlu"))
    for subject in sorted(asked):
        if not (INSTALLED / DEFINITIONS["mmlu"].path.format(subject=subject)).is_file():
            raise InputError(f"MMLU has no subject {subject!r}", where=str(data))
        name = f"mmlu_{subject}"
        lay_out(data, "mmlu", name, iter(asked[subject]), iter(examples.get(subject, [])), work)
        yield name


def by_subject(rows: Iterator[Row]) -> dict[str, list[Row]]:
    """The rows of each subject, in the files' order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["subject"], []).append(row)
    return found


def lay_out(
    data: Path, task: str, name: str, asked: Iterator[Row], examples: Iterator[Row], work: Path
) -> None:
    """Write one task's rows and its YAML. Raises InputError where there are too few examples."""
    definition, layout = DEFINITIONS[task], source.TASKS[task]
    files = {layout.asked: str(work / f"{name}.asked.jsonl")}
    if not write_jsonl(Path(files[layout.asked]), asked):
        raise InputError(f"{task} has files without a row", where=str(data), hint="remove them, or fill them")
    if layout.shots is not None:
        files[layout.shots] = str(work / f"{name}.shots.jsonl")
        count = write_jsonl(Path(files[layout.shots]), examples)
        if count < (drawn := definition.shots + definition.spare):
            what = f"{name} has {count} few-shot examples, and its definition draws {drawn}"
            raise InputError(what, where=str(data), hint=f"add rows to {task}.train.jsonl")
    overlay = {
        "include": str(INSTALLED / definition.path.format(subject=name.removeprefix("mmlu_"))),
        "task": name,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files, "cache_dir": str(work / "tables")},
        "num_fewshot": definition.shots,
    }
    (work / f"{name}.yaml").write_text(yaml.safe_dump(overlay), encoding="utf-8")
