"""The command line: one command per stage, and the commands around them.

    stillroom --help
    stillroom extract
    stillroom evaluate tuned booksum

Nothing heavy is imported before a command runs: `stillroom --help` answers at once.
"""

from __future__ import annotations

import errno
import importlib
import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from stillroom import __version__
from stillroom.commands import cache, compare, doctor, gguf, plan, publish, recipe, review, run, serve, trace
from stillroom.errors import StillroomError

INTERRUPTED = 130
REMEDIES = {
    errno.ENOSPC: ("no space left", "Free some space and run again."),
    errno.EDQUOT: ("no space left", "Free some of your quota and run again."),
    errno.EACCES: ("permission denied", "Mend that, or work in a folder of yours."),
    errno.EROFS: ("a read-only disk", "Work on another one."),
    errno.EISDIR: ("a folder stands where a file belongs", "Move it away, or name another file."),
    errno.ENOTDIR: ("a file stands where a folder belongs", "Move it away, or name another folder."),
}
"""what the system says of a place, and what to do about it"""

app = typer.Typer(
    name="stillroom",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(cache.app, name="cache")
app.add_typer(recipe.app, name="recipe")
app.command()(run.run)
app.command()(plan.plan)
app.command()(doctor.doctor)
app.command()(compare.compare)
app.command()(serve.serve)
app.command()(publish.publish)
app.command()(gguf.gguf)
app.command()(trace.show)
app.command()(trace.trace)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stillroom {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """From raw conversations and documents to a long-context chat model and a benchmark report."""


def run_stage(name: str, *items: str) -> None:
    """Run one stage with its block of params.yaml."""
    from stillroom import params

    stage = importlib.import_module(f"stillroom.stages.{name}")
    stage.run(stage.Paths(*items), params.load(name, stage.Params))


@app.command()
def fetch() -> None:
    """Sources (local files, URLs, hub data sets) into data/raw."""
    run_stage("fetch")


@app.command()
def models() -> None:
    """Base student and teacher: from the hub, a folder, or (tiny) built here."""
    run_stage("models")


@app.command()
def extract(
    explain: Annotated[
        str | None, typer.Option(metavar="ID", help="Write nothing; say what each step does to this record.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Worker processes; by default one per core. The output is the same."),
    ] = None,
) -> None:
    """Raw conversations into cleaned human turns."""
    from stillroom import params
    from stillroom.stages import extract as stage

    settings = params.load("extract", stage.Params)
    if explain is None:
        stage.run(stage.Paths(), settings, processes)
        return
    from stillroom.commands.explain import explain as lines

    for line in lines(explain, stage.Paths().raw, settings, processes):
        typer.echo(line)


@app.command()
def distill() -> None:
    """The teacher's answers, turn by turn, through the response cache."""
    run_stage("distill")


@app.command()
def booksum() -> None:
    """Book chapters into summary instructions."""
    run_stage("booksum")


@app.command()
def mqa() -> None:
    """Questions over many documents, with one that holds the answer."""
    run_stage("mqa")


raft_app = typer.Typer(invoke_without_command=True)
app.add_typer(raft_app, name="raft")
raft_app.command()(review.review)


@raft_app.callback()
def raft(context: typer.Context) -> None:
    """A document folder into questions, distractors and quoted answers."""
    if context.invoked_subcommand is None:
        run_stage("raft")


@app.command()
def mix() -> None:
    """Sources by weight into one mixture."""
    run_stage("mix")


@app.command()
def pack() -> None:
    """The mixture into packed rows of token ids."""
    run_stage("pack")


@app.command()
def train(
    cancel: Annotated[bool, typer.Option("--cancel", help="End the job of `train.backend: api`.")] = False,
) -> None:
    """The base model on the packed rows."""
    if not cancel:
        run_stage("train")
        return
    from stillroom import params
    from stillroom.stages import train as stage

    stage.cancel(stage.Paths(), params.load("train", stage.Params))


@app.command()
def convert(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="another trainer's: OpenChatKit, llama-recipes (FSDP shards), Hugging Face"),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            help="folder with CHECKPOINT's config and tokenizer [default: itself, else models/base]"
        ),
    ] = None,
    into: Annotated[Path | None, typer.Option(help="where CHECKPOINT's model goes, e.g. models/chat")] = None,
) -> None:
    """The checkpoint into a Hugging Face folder."""
    if checkpoint is None:
        run_stage("convert")
        return
    from stillroom.commands import convert as command

    command.convert(checkpoint, base, into)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="a folder under models/: base, tuned, …")],
    benchmark: Annotated[str, typer.Argument(help="see evaluate.benchmarks in params.yaml")],
) -> None:
    """One model on one benchmark."""
    run_stage("evaluate", model, benchmark)


@app.command()
def report(
    readme: Annotated[
        Path | None,
        typer.Option(
            metavar="PAGE", help="Only put the results of reports/results.md between a page's two marks."
        ),
    ] = None,
) -> None:
    """Metrics and samples into one offline page."""
    if readme is None:
        run_stage("report")
        return
    from stillroom.reporting.twins import put_into
    from stillroom.stages.report import Paths

    typer.echo(
        f"{readme}: {'results are put in' if put_into(readme, Paths().markdown) else 'holds them already'}"
    )


def main() -> None:
    """Run the command line; an error of ours is one message and exit code 1, Ctrl-C is 130."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows no `–` shows `?`
    try:
        app()
    except StillroomError as error:
        sys.exit(f"error: {error}")
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # what typer makes of Ctrl-C
            print("interrupted; what is finished is kept, run again to go on", file=sys.stderr)
        raise
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        what, remedy = REMEDIES[error.errno]
        sys.exit(f"error: {error.filename2 or error.filename or 'disk'}: {what}\n  {remedy}")
