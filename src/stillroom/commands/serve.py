"""`stillroom serve [FOLDER]`: a model behind OpenAI's API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    folder: Annotated[Path, typer.Argument(help="a Hugging Face folder")] = Path("models/tuned"),
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0 for the network")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one")] = 8000,
    name: Annotated[str | None, typer.Option(help="what requests call the model [default: FOLDER's]")] = None,
    dtype: Annotated[str, typer.Option(help="auto (as the weights), bfloat16, float32, …")] = "auto",
) -> None:
    """Serve a model with OpenAI's API (chat, completions, streaming) until Ctrl-C."""
    from stillroom.teacher import server

    server.serve(folder, name=name, host=host, port=port, dtype=dtype)
