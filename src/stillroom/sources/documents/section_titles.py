"""What a reference in reStructuredText points to: the titles of all sections of a folder.

.. _oil:

Oil and wicks          ──▶  titles("oil") = titles("manual/lamps") = "Oil and wicks", of manual/lamps.rst
=============
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

LABEL = re.compile(r"\.\. _(`[^`]+`|[^`:]+):")
ADORNMENT = re.compile(r"([=~^*#\"'`+_:.<>-])\1{2,}")
ROLE_TEXT = re.compile(r":[\w:+.-]+:`~?([^`<]*?)\s*(?:<[^`>]*>)?`")


class SectionTitles:
    """Titles by label, and by the end of the file's path where only one of the files has that end.

    The files are read (one after the other, not kept) when the first title is asked for.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __call__(self, name: str) -> str | None:
        """The title of a label, or of a document by the end of its path."""
        return self._known.get(name.lower()) or self._known.get("/".join(["", *name.split("/")[-2:]]))

    @functools.cached_property
    def _known(self) -> dict[str, str]:
        known: dict[str, str] = {}
        ends = [(f"/{path.stem}", f"/{path.parent.name}/{path.stem}") for path in self._paths]
        times = Counter(end for both in ends for end in both)
        for path, both in zip(self._paths, ends, strict=True):
            found = list(_titled(path.read_text(encoding="utf-8", errors="replace")))
            known |= {label: title for title, labels in found for label in labels}
            known |= {end: title for title, _ in found[:1] for end in both if times[end] == 1}
        return known


def _titled(text: str) -> Iterator[tuple[str, list[str]]]:
    """(title, labels over it) of the sections."""
    labels: list[str] = []
    lines = [line.rstrip() for line in text.split("\n")]
    for line, below in pairwise([*lines, ""]):
        if label := LABEL.fullmatch(line):
            labels.append(" ".join(label[1].strip("`").lower().split()))
        elif line and ADORNMENT.fullmatch(below) and not ADORNMENT.fullmatch(line):
            words = ROLE_TEXT.sub(r"\1", line.strip())
            yield words.replace("`", "").replace("*", ""), labels
            labels = []
        elif line and not ADORNMENT.fullmatch(line) and not line.startswith(".. "):
            labels = []
