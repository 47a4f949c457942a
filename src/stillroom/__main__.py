"""`python -m stillroom STAGE`: how dvc.yaml runs a stage, with the code of the checkout that it runs in."""

import sys

try:
    from stillroom.cli import main
except ModuleNotFoundError as error:
    if (error.name or "").startswith("stillroom"):
        raise
    sys.exit(
        f"{sys.executable} has no package {error.name!r}.\n"
        "  Run `make` once, then activate the environment: . .venv/bin/activate"
    )

if __name__ == "__main__":
    main()
