"""The checkout that a command works on, wherever in it (or outside it) the user stands."""

from __future__ import annotations

from pathlib import Path

from stillroom.errors import StillroomError


def root(start: Path | None = None) -> Path:
    """The nearest folder from `start` (default: here) upwards with a pipeline, else this package's checkout.

    Raises StillroomError where there is none.
    """
    here = (start or Path.cwd()).resolve()
    package = Path(__file__).resolve().parents[2]
    for folder in (here, *here.parents, package):
        if (folder / "dvc.yaml").is_file() and (folder / "Snakefile").is_file():
            return folder
    raise StillroomError("no stillroom checkout", where=str(here), hint="cd into a clone of stillroom")
