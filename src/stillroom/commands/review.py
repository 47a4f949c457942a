"""`stillroom raft review`: a person keeps, drops and edits what the teacher wrote about the documents."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillroom.errors import StillroomError

if TYPE_CHECKING:
    from stillroom.raft.pairs import Pair
    from stillroom.raft.review import Decisions


def review(
    everything: Annotated[
        bool, typer.Option("--all", help="the training pairs too, not only the held-out ones")
    ] = False,
    listed: Annotated[
        bool, typer.Option("--list", help="print the pairs and what was decided, a line each, and end")
    ] = False,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FILE", help="write them as CSV, and end")
    ] = None,
    fill: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="take decisions from such a CSV, and end")
    ] = None,
) -> None:
    """Keep, drop or edit questions and answers; `stillroom run` then makes the examples anew, at no cost.

    Decisions stand in data/review/raft.jsonl, which belongs into git. They come back with their pairs.
    """
    from stillroom.raft import spreadsheet
    from stillroom.raft.pairs import read_pairs
    from stillroom.raft.review import read, write
    from stillroom.stages.raft import Paths

    paths = Paths()
    decisions = read(paths.review)
    present = list(read_pairs(paths.pairs))
    pairs = [pair for pair in present if everything or pair.side == "eval"]
    if fill is not None:
        made = spreadsheet.load(fill, present)
        decisions.update((decision.pair, decision) for decision in made)
        write(paths.review, decisions)
        typer.echo(f"{len(made)} decisions taken from {fill} into {paths.review}")
    elif export is not None:
        spreadsheet.save(export, pairs, decisions)
        typer.echo(f"{len(pairs)} pairs in {export}")
    elif listed:
        for line in lines(pairs, decisions, present):
            typer.echo(line)
    else:
        converse(pairs, decisions, paths.review)
        tell_stale(decisions, present)


def converse(pairs: list[Pair], decisions: Decisions, path: Path) -> None:
    """Go through the pairs in the terminal. Raises StillroomError where there is none."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        hint = "without one: --list, or --export FILE and --import FILE"
        raise StillroomError("a review needs a terminal", hint=hint)
    from stillroom.raft.session import Session

    Session(pairs, decisions, path).run()


def lines(pairs: list[Pair], decisions: Decisions, present: list[Pair]) -> list[str]:
    """Status, pair, side, document, question and answer, tab-separated; at the end stale decisions."""
    rows: list[tuple[str, ...]] = [
        (decisions.status(p), p.identity, p.side, p.chunk.document, p.question, p.answer) for p in pairs
    ]
    gone = decisions.stale(pair.identity for pair in present)
    rows += [("stale", d.pair, d.decision, d.document, d.question, d.answer) for d in gone]
    return ["\t".join(" ".join(text.split()) for text in row) for row in rows]


def tell_stale(decisions: Decisions, present: list[Pair]) -> None:
    """Say how many decisions have lost their pair."""
    if gone := decisions.stale(pair.identity for pair in present):
        typer.echo(
            f"{len(gone)} decisions are about pairs that are gone; they stay in the file: --list names them"
        )
