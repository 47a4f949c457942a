"""Which address each crawled page is from: a file beside the pages.

{"url": "https://isles.example/ferry", "file": "isles.example/ferry-0b1c2d3e4f.html", "sha256": "9f…"}
{"url": "https://isles.example/gone", "failed": "404 Not Found"}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stillroom.artifacts import read_jsonl, write_jsonl

MANIFEST = "crawl-manifest.jsonl"
"""its name; no document itself"""


def write(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the manifest of a folder."""
    write_jsonl(folder / MANIFEST, rows)


def sources(folder: Path) -> dict[str, str]:
    """File ──▶ address; nothing where no page was crawled."""
    path = folder / MANIFEST
    rows = (row for _, row in read_jsonl(path)) if path.is_file() else ()
    return {row["file"]: row["url"] for row in rows if "file" in row}
