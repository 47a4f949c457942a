"""How short answers are compared: the normalisation of SQuAD's script, which open-domain QA shares."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces.

    >>> normalise("The  Cat's hat.")
    'cats hat'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def holds(text: str, answers: Iterable[str]) -> bool:
    """Whether a text holds one of the answers, both normalised; one of nothing but articles never counts.

    >>> holds("The cat's HATS.", ["a", "Cats hat"])
    True
    """
    said = normalise(text)
    return any(answer in said for answer in map(normalise, answers) if answer)
