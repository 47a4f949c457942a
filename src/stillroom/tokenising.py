"""Texts ──▶ token ids in flat arrays, many texts at a time.

    codec = Codec(tokenizer.backend_tokenizer)     every text through the tokenizer
    words = Words(codec)                           the same ids from a table of the words seen before

Most words of a text have been seen: `Words` cuts texts where no token can cross, looks each word up, and
hands only new ones to the tokenizer. That this changes no id follows from the tokenizer's own file
(`separable`); a tokenizer of which it cannot be shown encodes every text itself.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, Literal, Protocol, TypeVar, cast, get_args

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.int32]]
Longs = np.ndarray[Any, np.dtype[np.int64]]
A = TypeVar("A", bound="np.ndarray[Any, Any]")
Place = Literal["first", "inner", "continued"]
PLACES: tuple[Place, ...] = get_args(Place)
"""Where a text stands: at a row's beginning; behind a control token; behind text that it goes on from."""

BOUNDARY = re.compile(r"(?<=[!-~])(?= [!-~])|(?<=[!-~]\n)(?=[!-~])")
"""before a single space, or behind a single line's end, between visible ASCII characters: never inside a
token of a separable tokenizer"""
RUN = 256
"""new words that are encoded as one text"""
TABLE_CHARACTERS = 32_000_000
"""of words that are remembered; then the table starts anew"""
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = (LLAMA_3, LLAMA_3.replace("{1,3}", ""))
"""patterns (Llama-3's, Qwen2's) that begin a new word at every BOUNDARY and never look behind"""


@dataclass(frozen=True)
class Ragged:
    """Ids of several texts end to end, and how many each has."""

    ids: Ints
    lengths: Longs


class Encoder(Protocol):
    """What turns texts, each with its place, into ids."""

    def ragged(self, texts: Sequence[str], places: Sequence[Place]) -> Ragged:
        """Ids without anything added; a text that spells a control token stays text."""


class Codec:
    """A tokenizer's own copies for text, one per place, all blind to control tokens.

    Copies, because switching control tokens off in a tokenizer that threads share would let them through.
    """

    def __init__(self, backend: Any) -> None:
        self.spec: dict[str, Any] = json.loads(backend.to_str())
        self._backends: dict[Place, Any] = {
            "first": _blind(backend, self.spec),
            "inner": _blind(backend, inside(self.spec)),
            "continued": _blind(backend, without_prefix(self.spec)),
        }

    def encode(self, texts: Sequence[str], place: Place = "first") -> list[list[int]]:
        """Ids of texts that stand at one place."""
        backend = self._backends[place]
        return [e.ids for e in backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        """Ids of continued words, each of which begins and ends at a BOUNDARY before a space.

        Whole runs are encoded and cut at the words' offsets: that is faster than word by word.
        """
        runs = [words[start : start + RUN] for start in range(0, len(words), RUN)]
        found = []
        texts = ["".join(run) for run in runs]
        encodings = self._backends["continued"].encode_batch(texts, add_special_tokens=False)
        for run, encoding in zip(runs, encodings, strict=True):
            ids, starts = encoding.ids, [start for start, _ in encoding.offsets]
            ends = np.searchsorted(starts, np.cumsum([len(word) for word in run])).tolist()
            found += [ids[start:end] for start, end in pairwise([0, *ends])]
        return found

    def ragged(self, texts: Sequence[str], places: Sequence[Place]) -> Ragged:
        """Ids of texts, each at its place."""
        found: list[list[int]] = [[]] * len(texts)
        for place in dict.fromkeys(places):
            own = [i for i, other in enumerate(places) if other == place]
            for i, ids in zip(own, self.encode([texts[i] for i in own], place), strict=True):
                found[i] = ids
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        return Ragged(np.fromiter(chain.from_iterable(found), np.int32, int(lengths.sum())), lengths)


class Words:
    """A table of words with their ids, in front of a codec. Not for use by two threads at once."""

    def __init__(self, codec: Codec, most_characters: int = TABLE_CHARACTERS) -> None:
        self._codec, self._most = codec, most_characters
        self._separable = separable(codec.spec)
        self._forget()

    def ragged(self, texts: Sequence[str], places: Sequence[Place]) -> Ragged:
        """Ids of texts, each at its place: those that the codec gives."""
        if not self._separable or not texts:
            return self._codec.ragged(texts, places)
        if self._characters > self._most:
            self._forget()
        words, counts = [], []
        for text, place in zip(texts, places, strict=True):
            parts = BOUNDARY.split(text)
            parts[0] = f"\n{place} {parts[0]}"  # no other word begins with a line's end
            words += parts
            counts.append(len(parts))
        index = np.fromiter(map(self._index.__getitem__, words), np.int64, len(words))
        self._learn(self._index.take_new())
        ends = np.frombuffer(self._ends, np.int64)
        lengths = np.diff(ends)[index]
        ids = gather(np.frombuffer(self._ids, np.int32), ends[index], lengths)
        firsts = np.cumsum([0, *counts[:-1]])
        return Ragged(ids, np.add.reduceat(lengths, firsts))

    def _learn(self, words: Sequence[str]) -> None:
        """Have new words encoded, and append their ids to the table."""
        runs = [word for word in words if _joins(word)]
        found = dict(zip(runs, self._codec.encode_words(runs), strict=True))
        for place in PLACES:
            start = f"\n{place} "
            own = [word for word in words if word.startswith(start)]
            if place == "continued":
                own += [word for word in words if word[0] != "\n" and not _joins(word)]
            texts = [word.removeprefix(start) for word in own]
            found |= zip(own, self._codec.encode(texts, place), strict=True)
        lengths = np.fromiter((len(found[word]) for word in words), np.int64, len(words))
        self._ids.extend(chain.from_iterable(found[word] for word in words))
        self._ends.frombytes((np.cumsum(lengths) + self._ends[-1]).tobytes())
        self._characters += sum(map(len, words))

    def _forget(self) -> None:
        self._index = _Index()
        self._ids, self._ends = array("i"), array("q", [0])
        self._characters = 0


def _joins(word: str) -> bool:
    """Whether a word that follows another such word follows at a BOUNDARY."""
    return word[0] == " " and "!" <= word[-1] <= "~"


class _Index(dict[str, int]):
    """Words by number; a new one gets the next number."""

    def __init__(self) -> None:
        self._new: list[str] = []

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self)
        self._new.append(word)
        return number

    def take_new(self) -> list[str]:
        """The words that are new since the last call."""
        new, self._new = self._new, []
        return new


def gather(values: A, starts: Longs, lengths: Longs) -> A:
    """values[start : start + length] of every start, end to end."""
    offsets = np.cumsum(lengths) - lengths
    places = np.repeat(starts - offsets, lengths)
    places += np.arange(len(places))
    return cast(A, values[places])


def separable(spec: dict[str, Any]) -> bool:
    """Whether a tokenizer.json shows that no token crosses a BOUNDARY and no side of one sees the other.

    True of BPE where either the pre-tokenizer cuts there (GPT-2's, Llama-3's, Qwen2's patterns), or the text
    is not cut at all or at spaces, and no token of the vocabulary reaches over a boundary: every step of a
    merge is a token. Normalizers and added tokens must not see across either.
    """
    model = spec["model"]
    odd = any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
    if model.get("type") != "BPE" or odd or not _local(spec.get("normalizer")):
        return False
    if any(_crosses(token) for token in spec.get("added_tokens", []) if not token["special"]):
        return False
    cutter = spec.get("pre_tokenizer") or {}
    parts = cutter["pretokenizers"] if cutter.get("type") == "Sequence" else [cutter]
    if [part.get("type") for part in parts] == ["Split", "ByteLevel"]:
        return _known_split(parts[0]) and not parts[1]["use_regex"]
    if cutter.get("type") == "ByteLevel":
        return bool(cutter["use_regex"])
    known = not {" ", "▁"}.isdisjoint(model["vocab"])  # an unknown mark could fuse with what stands before it
    uncut = cutter.get("type") in (None, "Metaspace")
    return uncut and known and not any(map(_CROSSING.search, model["vocab"]))


_CROSSING = re.compile("[!-~][ ▁]|\n[!-~]")


def _crosses(token: dict[str, Any]) -> bool:
    """Whether an added token could reach over a boundary, or see over it."""
    return bool(
        token["lstrip"] or token["rstrip"] or token["single_word"] or _CROSSING.search(token["content"])
    )


def _known_split(part: dict[str, Any]) -> bool:
    return (
        part["pattern"].get("Regex") in SPLITS and part["behavior"] == "Isolated" and not part.get("invert")
    )


def _local(normalizer: dict[str, Any] | None) -> bool:
    """Whether a normalizer treats both sides of a boundary apart."""
    if normalizer is None or normalizer["type"] in ("NFC", "Prepend"):
        return True
    if normalizer["type"] == "Sequence":
        return all(map(_local, normalizer["normalizers"]))
    return bool(normalizer["type"] == "Replace" and normalizer["pattern"] == {"String": " "})


def _blind(backend: Any, spec: dict[str, Any]) -> Any:
    """A copy of a tokenizer that reads a spelled-out control token as text."""
    copy = type(backend).from_str(json.dumps({**spec, "post_processor": None}))
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True
    return copy


def inside(spec: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json for text behind a control token: Metaspace may put its space before a row only."""
    cutter = json.dumps(spec.get("pre_tokenizer"))
    first, never = '"prepend_scheme": "first"', '"prepend_scheme": "never"'
    return {**spec, "pre_tokenizer": json.loads(cutter.replace(first, never))}


def without_prefix(spec: Any) -> Any:
    """A tokenizer.json without the space that it puts before a text (Prepend, Metaspace, ByteLevel)."""
    if isinstance(spec, list):
        return [without_prefix(part) for part in spec if not _is_prepend(part)]
    if not isinstance(spec, dict):
        return spec
    switches = {"prepend_scheme": "never", "add_prefix_space": False}
    kept = {key: switches.get(key, value) for key, value in spec.items()}
    for key in ("normalizer", "pre_tokenizer", "normalizers", "pretokenizers"):
        if key in kept:
            kept[key] = None if _is_prepend(kept[key]) else without_prefix(kept[key])
    return kept


def _is_prepend(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "Prepend"
