"""`stillroom recipe list | show | use | diff | complete`: whole params files, and the one in force."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from stillroom.errors import ParamsError

app = typer.Typer(no_args_is_help=True, help="Whole params files: list, show, put in force, compare.")

PARAMS = Path("params.yaml")


@app.command("list")
def list_recipes() -> None:
    """The recipes, a line each; * marks the one in force."""
    from stillroom import recipes

    width = max(map(len, recipes.names()), default=0)
    for name in recipes.names():
        path = recipes.path_of(name)
        in_force = PARAMS.is_file() and not recipes.differences(path, PARAMS)
        summary = recipes.description(path).partition("\n")[0]
        typer.echo(f"{'*' if in_force else ' '} {name:{width}}  {summary}")


@app.command()
def show(name: Annotated[str, typer.Argument(help="a recipe, or a params file")]) -> None:
    """Print a recipe with its comments."""
    from stillroom import recipes

    typer.echo(recipes.path_of(name).read_text(encoding="utf-8"), nl=False)


@app.command()
def use(
    name: Annotated[str, typer.Argument(help="a recipe, or a params file")],
    force: Annotated[bool, typer.Option(help="overwrite a params.yaml that is no recipe's")] = False,
) -> None:
    """Put a recipe in force: check it and copy it over params.yaml."""
    from stillroom import recipes

    path = recipes.path_of(name)
    recipes.check(path)
    if PARAMS.is_file() and not force and not _is_a_recipe(PARAMS):
        raise ParamsError(
            "holds changes that no recipe has",
            where=str(PARAMS),
            hint=f"keep them (cp {PARAMS} recipes/mine.yaml), or overwrite it with --force",
        )
    text = path.read_text(encoding="utf-8").replace("$schema=schema.json", "$schema=recipes/schema.json")
    temporary = PARAMS.with_suffix(".partial")
    temporary.write_text(text, encoding="utf-8")
    shutil.move(temporary, PARAMS)
    typer.echo(f"{PARAMS} is now {name}; see what would run: stillroom plan")


def _is_a_recipe(path: Path) -> bool:
    """Whether some recipe has the very settings of `path`."""
    from stillroom import recipes

    return any(not recipes.differences(recipes.path_of(name), path) for name in recipes.names())


@app.command()
def diff(
    first: Annotated[str, typer.Argument(help="a recipe, or a params file")],
    second: Annotated[str, typer.Argument(help="another one")] = str(PARAMS),
) -> None:
    """Every setting in which two recipes differ, defaults included."""
    from rich.console import Console
    from rich.table import Table

    from stillroom import recipes

    table = Table("setting", first, second)
    for key, a, b in recipes.differences(recipes.path_of(first), recipes.path_of(second)):
        table.add_row(key, str(a), str(b))
    Console().print(table if table.row_count else "no differences")


@app.command()
def complete(file: Annotated[Path, typer.Argument(help="a params file")]) -> None:
    """Rewrite a params file with every key spelled out and commented."""
    from stillroom import recipes

    recipes.complete(file)
