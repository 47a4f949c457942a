"""A data set's card: what it holds, how it was made, what was left out, in Hugging Face's form.

metrics, settings ──▶ dataset_card ──▶ Markdown under a YAML header (README.md of a dataset on the hub)

No dates, no hosts, no paths: the same data give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")
"""the hub's names for numbers of records"""
MEANINGS = {
    "complete": "said to its end",
    "truncated": "cut at max_tokens",
    "empty": "without text",
    "refused": "the teacher declines",
    "filtered": "cut by the endpoint's content filter",
    "other": "an unknown finish reason",
    "too_long": "the prompt does not fit the teacher's context",
    "original": "the source's own answer",
}
"""of the verdicts in `stillroom.teacher.verdicts`"""
FATES = ("kept", "retried", "dropped")


def dataset_card(
    *,
    title: str,
    languages: Sequence[str],
    license: str,
    data_file: str,
    metrics: Mapping[str, Any],
    sources: Mapping[str, Mapping[str, int]],
    teacher: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
) -> str:
    """The card of `distill`'s instructions; `metrics` are the stage's.

    sources: what of each was kept. teacher: None where nobody was asked.
    """
    return CARD.format(
        header=header(title, languages, license, data_file, metrics["conversations"]),
        title=title,
        answered="with the answers that they came with" if teacher is None else _teacher(teacher),
        sources=_table(
            ("source", "conversations", "turns", "prompt tokens", "answer tokens"),
            ((name, *counts.values()) for name, counts in sources.items()),
        ),
        lengths=_lengths(metrics),
        answers=_table(
            ("answer", *FATES, "what it is"),
            (
                (name, *(fates.get(fate, 0) for fate in FATES), MEANINGS[name])
                for name, fates in metrics["answers"].items()
            ),
        ),
        endings=_endings(metrics),
        **{key: metrics[key] for key in metrics if key.startswith("bought_")},
        settings=yaml.safe_dump(
            {**({"teacher": dict(teacher)} if teacher else {}), **settings},
            sort_keys=False,
            allow_unicode=True,
            width=10_000,
        ),
        data_file=data_file,
        licence=LICENCE if teacher else LICENCE_OF_SOURCES,
    )


def header(title: str, languages: Sequence[str], license: str, data_file: str, count: int) -> str:
    """The YAML by which the hub finds and loads the data."""
    from huggingface_hub import DatasetCardData

    return DatasetCardData(
        language=list(languages) or None,
        license=license,
        pretty_name=title,
        size_categories=size_category(count),
        task_categories=["text-generation"],
        tags=["distillation", "conversational"],
        configs=[{"config_name": "default", "data_files": data_file}],
    ).to_yaml()


def size_category(count: int) -> str:
    """The hub's name for a number of records: 1,000 is the first of `1K<n<10K`."""
    return SIZES[min(max(0, len(str(count)) - 3), len(SIZES) - 1)]


def _teacher(teacher: Mapping[str, Any]) -> str:
    name = f"`{teacher['model']}`" + (f" (`{teacher['id']}`)" if teacher["id"] else "")
    return f"answered by {name} through its {teacher['api']} API, turn by turn"


def _lengths(metrics: Mapping[str, Any]) -> str:
    names = {
        "turns_of_conversation": "turns of a conversation",
        "tokens_of_answer": "tokens of an answer",
        "tokens_of_conversation": "tokens of a conversation",
    }
    columns = tuple(metrics["tokens_of_answer"])
    rows = ((names[key], *metrics[key].values()) for key in names)
    return _table(("length", *columns), rows)


def _endings(metrics: Mapping[str, Any]) -> str:
    cut, lost = metrics["conversations_cut"], metrics["conversations_lost"]
    rows = [(name, cut.get(name, 0), lost.get(name, 0)) for name in sorted({*cut, *lost})]
    if not rows:
        return " None did so early."
    return "\n\n" + _table(("ended by", "cut short, complete turns kept", "left out"), rows)


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return " ".join(str(value).split()).replace("|", "\\|")


CARD = """---
{header}
---
# {title}

Conversations whose human turns come from the sources below, {answered}. Made by stillroom.

{sources}

{lengths}

Tokens are the teacher's count; a conversation's are those of its last request and answer.

## Records

`{data_file}` holds one conversation a line, `{{"text": …}}`, sorted by id, in the chat format named below.
What a user's text spells of that format's own markers is spaced out.

## What was left out

{answers}

A conversation ends before the first turn without a usable answer.{endings}

All answers, each once: {bought_answers:,} ({bought_prompt_tokens:,} + {bought_completion_tokens:,} tokens).

## How it was made

````yaml
{settings}````

## Licence

{licence}
"""
LICENCE = """\
The teacher's licence or terms of use bind its answers, and may forbid some uses, such as training models that
compete with it. The sources' own terms bind the human turns. Whoever passes the data on must heed both."""
LICENCE_OF_SOURCES = """\
The sources' own terms bind human turns and answers alike, and so do the terms of whoever gave the answers.
Whoever passes the data on must heed both."""
