"""Text files that rows name by a path, wherever below a folder they were put.

    all_chapterized_books/158-chapters/01.txt
      ──▶ FOLDER/all_chapterized_books/158-chapters/01.txt, FOLDER/158-chapters/01.txt, …

A publication's paths begin where its authors kept the files. So a path is looked for whole, then without its
first part, and so on down to the file with its folder: beside the file that names it, in every folder above
that, and in `scripts/` there, where BookSum's own scripts put the summaries.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath


class TextMissing(Exception):
    """A text that a row names and that cannot be had; the message says which and why."""


class Texts:
    """The texts of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.asked = 0
        """how many were asked for"""

    def read(self, name: str, beside: Path) -> str:
        """The text that the file `beside` names. Raises TextMissing where it is not there, or not UTF-8."""
        self.asked += 1
        path = next((path for path in self._candidates(name, beside) if path.is_file()), None)
        if path is None:
            raise TextMissing(f"the text {name!r} is not there")
        try:
            return path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise TextMissing(f"the text {name!r} is not UTF-8 ({error})") from None

    def _candidates(self, name: str, beside: Path) -> Iterator[Path]:
        parts = [part for part in PurePosixPath(name).parts if part != "/"]
        if ".." in parts:
            return
        levels = [level for level in beside.parents if level.is_relative_to(self._folder)]
        for start in range(max(1, len(parts) - 1)):
            for level in levels:
                for place in (level, level / "scripts"):
                    yield place.joinpath(*parts[start:])
