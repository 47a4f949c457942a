"""`stillroom cache stats | import | export`: the answers that were paid for, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="The teacher's answers on this machine: count, import, export.")


@app.command()
def stats() -> None:
    """How many answers and tokens the cache holds, and where it lies."""
    from stillroom.teacher.cache import Cache

    cache = Cache()
    for name, value in cache.stats().items():
        typer.echo(f"{name:18} {value:>15,}")
    typer.echo(f"{'file':18} {cache.path}")


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
def export(path: Annotated[Path, typer.Argument(help="the Parquet file to write")]) -> None:
    """Write every answer of the cache as a snapshot, which another machine can import."""
    from stillroom.teacher.cache import Cache

    cache = Cache()
    typer.echo(f"{path}: {cache.export(cache.keys(), path):,} answers")
