"""Tasks and a model ──▶ lm-evaluation-harness's evaluation ──▶ a Sample of every question.

A figure is lm-eval's own: its metrics of each question, whose mean is its aggregate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import lm_eval.api.task
import numpy as np
from lm_eval import evaluate
from tqdm import tqdm

from stillroom.benchmarks.base import Sample, Scores, Status
from stillroom.benchmarks.harness.definitions import DEFINITIONS, place, sample_id
from stillroom.benchmarks.harness.models import ANSWER_TOKENS, Local, Remote

Logged = dict[str, Any]


def examine(task: str, built: dict[str, Any], lm: Local | Remote, limit: int | None) -> Iterator[Sample]:
    """The samples of one of the leaderboard's tasks. Raises ModelError, EndpointError."""
    quiet()
    found = evaluate(lm=lm, task_dict={"tasks": built, "groups": {}}, limit=limit, bootstrap_iters=0)
    for name, logged in found["samples"].items():
        yield from samples(task, built[name], logged, lm)


def skipped(task: str, built: dict[str, Any], limit: int | None, note: str) -> Iterator[Sample]:
    """The questions of a task that cannot be asked."""
    quiet()
    for each in built.values():
        each.build_all_requests(limit=limit)
        asked = {request.doc_id: request for request in reversed(each.instances)}
        for number, request in sorted(asked.items()):
            prompt = prompt_of(each, request.doc, [request.args[0]])
            id, group = names(task, each, number)
            yield Sample(id, group, prompt, None, golds(task, each, request.doc), {}, "skipped", note)


def samples(task: str, built: Any, logged: Sequence[Logged], lm: Local | Remote) -> Iterator[Sample]:
    """What lm-eval noted of each question of one of its tasks."""
    definition = DEFINITIONS[task]
    others = {row["doc_id"]: row for row in logged if row["filter"] != definition.filter}
    for row in logged:
        if row["filter"] != definition.filter:
            continue
        contexts = [arguments[0] for arguments in row["arguments"]]
        value = float(row[definition.metric])
        scores: Scores = {"score": value, task: value}
        if other := others.get(row["doc_id"]):
            scores["flexible"] = float(other[definition.metric])
        if any(is_cut(text, lm, ANSWER_TOKENS if task == "gsm8k" else 0) for text in contexts):
            scores["truncated"] = 1.0
        id, group = names(task, built, row["doc_id"])
        prompt, gold = prompt_of(built, row["doc"], contexts), golds(task, built, row["doc"])
        if isinstance(lm, Remote) and (missing := lm.unanswered.get(id)):
            status: Status = "failed" if missing.failed else "skipped"
            yield Sample(id, group, prompt, None, gold, {}, status, missing.note)
        else:
            yield Sample(id, group, prompt, output(task, built, row), gold, scores)


def names(task: str, built: Any, number: int) -> tuple[str, str]:
    """A question's id and group: questions of one subject of MMLU are a group, all others stand alone."""
    id = sample_id(built.task_name, number)
    return id, place(built.task_name) if task == "mmlu" else id


def prompt_of(built: Any, doc: Logged, contexts: Sequence[str]) -> str:
    """What the model is given; of sentences with each option filled in, the sentence with its blank."""
    if not built.multiple_input:
        return contexts[0]
    return contexts[0].removesuffix(built.doc_to_choice(doc)[0]) + str(doc["sentence"])


def output(task: str, built: Any, row: Logged) -> str:
    """The choice that the model finds likeliest, as the metric weighs it; or what it wrote."""
    if built.config.doc_to_choice is None:
        return str(row["resps"][0][0])
    choices = built.doc_to_choice(row["doc"])
    likely = np.array([score for score, _ in row["filtered_resps"]])
    if DEFINITIONS[task].metric == "acc_norm":
        likely = likely / np.array([len(choice) for choice in choices])
    return str(choices[int(likely.argmax())])


def golds(task: str, built: Any, doc: Logged) -> list[str]:
    """The right answers."""
    if task == "gsm8k":
        return [str(doc["answer"]).rpartition("#### ")[2]]
    if task == "truthfulqa_mc2":
        targets = doc["mc2_targets"]
        return [text for text, right in zip(targets["choices"], targets["labels"], strict=True) if right]
    right = built.doc_to_text(doc) if built.multiple_input else built.doc_to_target(doc)
    return [str(built.doc_to_choice(doc)[int(right)])]


def is_cut(text: str, lm: Local | Remote, answer: int) -> bool:
    """Whether a prompt is longer than the model's positions: lm-eval then leaves out its beginning."""
    room = lm.max_length - answer
    return len(text.encode()) > room and bool(len(lm.tok_encode(text)) > room)


def quiet() -> None:
    """Take lm-eval's progress bars away: `stillroom.progress` shows one."""
    lm_eval.api.task.tqdm = partial(tqdm, disable=True)
