"""`stillroom cache stats | show | export | import | prune | repair`: the answers that were paid for."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillroom.commands.plan import money
from stillroom.errors import InputError

if TYPE_CHECKING:
    from stillroom.teacher.cache import Row, TeacherUse

app = typer.Typer(
    no_args_is_help=True, help="The teacher's answers on this machine: look, move, remove, mend."
)

SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}
TeacherName = Annotated[str | None, typer.Option("--teacher", help="only this teacher's; * and ? match any")]


@app.command()
def stats() -> None:
    """How many answers and tokens the cache holds of each teacher, what they cost, and where it lies."""
    from stillroom.teacher.cache import Cache

    cache = Cache()
    for line in (line for use in cache.teachers() for line in _lines_of(use)):
        typer.echo(line)
    for name, value in cache.stats().items():
        typer.echo(f"{name:18} {value:>15,}")
    typer.echo(f"{'file':18} {cache.path}")


@app.command()
def show(
    key: Annotated[str, typer.Argument(help="the first characters of a key, enough to tell it from others")],
    as_json: Annotated[bool, typer.Option("--json", help="one line of JSON")] = False,
) -> None:
    """One answer with its request and where it came from."""
    import orjson

    from stillroom.teacher.cache import Cache

    row = Cache().show(key)
    typer.echo(orjson.dumps(row) if as_json else "\n".join(described(row)))


@app.command("import")
def import_snapshot(
    snapshots: Annotated[list[Path], typer.Argument(help="e.g. data/interim/distill-answers.parquet")],
) -> None:
    """Take over the answers of snapshots, so that they need not be asked for."""
    from stillroom.teacher.cache import Cache

    cache = Cache()
    for path in snapshots:
        typer.echo(f"{path}: {cache.import_parquet(path):,} new answers")


@app.command()
def export(
    path: Annotated[Path, typer.Argument(help="the Parquet file to write")],
    teacher: TeacherName = None,
) -> None:
    """Write the answers of the cache as a snapshot, which another machine can import."""
    from stillroom.teacher.cache import Cache

    cache = Cache()
    keys = cache.keys(teacher)
    if teacher and not keys:
        known = ", ".join(use.teacher for use in cache.teachers()) or "none"
        raise InputError(f"no answer of {teacher}", where=str(cache.path), hint=f"teachers: {known}")
    typer.echo(f"{path}: {cache.export(keys, path):,} answers")


@app.command()
def prune(
    teacher: TeacherName = None,
    older_than: Annotated[
        str | None, typer.Option(help="only those bought longer ago: 12h, 90d, 8w; not those of an import")
    ] = None,
    not_in: Annotated[
        list[Path] | None, typer.Option(help="only those that this snapshot has not; may be repeated")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="remove them")] = False,
) -> None:
    """Say which answers meet all conditions given, and with --yes remove them for good."""
    from stillroom.teacher.cache import default_path
    from stillroom.teacher.upkeep import Choice, would_go
    from stillroom.teacher.upkeep import prune as remove

    choice = Choice(teacher, _moment(older_than), tuple(not_in or ()))
    gone = (remove if yes else would_go)(default_path(), choice)
    typer.echo(
        f"{gone.answers:,} answers {'removed' if yes else 'would go'}: {gone.tokens:,} tokens, "
        f"cost {money(gone.cost)}, {gone.bytes:,} bytes before compression"
    )
    if gone.answers and not yes:
        typer.echo("nothing is removed yet; --yes does it")


@app.command()
def repair() -> None:
    """Check the cache file; where it is damaged, save what can be read and keep the damaged one too."""
    from stillroom.teacher.cache import default_path
    from stillroom.teacher.upkeep import repair as mend

    done = mend(default_path())
    if done.kept is None:
        typer.echo(f"no damage: {done.answers:,} answers")
        return
    saved = f"{done.answers:,} answers saved, {done.unreadable:,} are unreadable"
    typer.echo(saved if done.answers or done.unreadable else "nothing in it can be read")
    typer.echo(f"the damaged file is kept as {done.kept}")
    typer.echo("`stillroom cache import SNAPSHOT` refills from data/interim/*-answers.parquet")


def _lines_of(use: TeacherUse) -> list[str]:
    """A teacher's part of the statistics."""
    cost = "unknown" if use.cost is None else money(use.cost)
    return [
        use.teacher,
        f"  answers {use.answers:,}, tokens {use.prompt_tokens:,} + {use.completion_tokens:,}, "
        f"cost {cost}, {use.bytes:,} bytes before compression",
        f"  bought from {_date(use.oldest)} to {_date(use.newest)}",
    ]


def described(row: Row) -> list[str]:
    """A row for people: what is known of it, the request, the answer."""
    from dataclasses import asdict

    import orjson

    values = asdict(row)
    request, text = values.pop("request"), values.pop("text")
    values["time"] = _date(row.time)
    known = [f"{name:18} {value}" for name, value in values.items() if value is not None]
    with suppress(orjson.JSONDecodeError):  # what is not ours is shown as it is
        request = orjson.dumps(orjson.loads(request), option=orjson.OPT_INDENT_2).decode()
    return [*known, "", "request", request, "", "answer", text]


def _date(moment: float | None) -> str:
    return "unknown" if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _moment(age: str | None) -> float | None:
    """When something of that age was made, in seconds since 1970."""
    if age is None:
        return None
    if not (parts := re.fullmatch(r"(\d+)([hdw])", age)):
        raise typer.BadParameter(f"{age!r} is no age: 12h, 90d or 8w")
    return time.time() - int(parts[1]) * SECONDS[parts[2]]
