"""What a conversation must not be to stay: a filter returns None, or says why the conversation goes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from stillroom.errors import ParamsError
from stillroom.records import Message

Filter = Callable[[Sequence[Message]], str | None]

COMMON_LANGUAGES = (
    *("english", "french", "german", "italian", "portuguese", "spanish"),
    *("arabic", "chinese", "hindi", "japanese", "korean", "russian"),
)
"""told apart from each other and from those asked for; more would cost time and short texts"""
EXCERPT = 1000
"""characters that decide on the language"""
LEAST_SHARE = 0.15
"""probability of the allowed languages together; low, in favour of short and mixed texts"""
FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
LETTER = re.compile(r"[^\W\d_]")


def boilerplate(patterns: Iterable[str]) -> Filter:
    """No answer may match one of the patterns (regular expressions, case ignored).

    Raises ParamsError on a bad pattern.
    """
    compiled = [_compiled(pattern) for pattern in patterns]

    def check(messages: Sequence[Message]) -> str | None:
        answers = [m.content for m in messages if m.role == "assistant"]
        found = (match for text in answers for pattern in compiled if (match := pattern.search(text)))
        match = next(found, None)
        return f"an answer says {match[0].strip()!r}" if match else None

    return check


def language(names: Sequence[str]) -> Filter:
    """The human turns, without their code, must be in one of the languages; no names: any language.

    Raises ParamsError on an unknown language.
    """
    from lingua import Language, LanguageDetectorBuilder

    known = {language.name.lower(): language for language in Language.all()}
    for name in names:
        if name not in known:
            raise ParamsError(f"unknown language {name!r}", where="extract.languages", hint="e.g. english")
    wanted = {known[name] for name in names}
    candidates = wanted | {known[name] for name in COMMON_LANGUAGES}
    detector = LanguageDetectorBuilder.from_languages(*candidates).build()

    def check(messages: Sequence[Message]) -> str | None:
        text = FENCED.sub(" ", "\n".join(m.content for m in messages if m.role == "user"))[:EXCERPT]
        if not wanted or len(LETTER.findall(text)) < 2:
            return None
        values = detector.compute_language_confidence_values(text)
        if sum(v.value for v in values if v.language in wanted) >= LEAST_SHARE:
            return None
        return f"reads like {values[0].language.name.lower()}" if values[0].value else "an unknown script"

    return check


def length(least: int, most: int) -> Filter:
    """The human turns together must have at least `least` and at most `most` characters."""

    def check(messages: Sequence[Message]) -> str | None:
        count = sum(len(m.content.strip()) for m in messages if m.role == "user")
        if count < least:
            return f"{count} characters, under {least}"
        return f"{count:,} characters, over {most:,}" if count > most else None

    return check


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise ParamsError(
            f"not a regular expression: {pattern!r} ({error})", where="extract.boilerplate"
        ) from None
