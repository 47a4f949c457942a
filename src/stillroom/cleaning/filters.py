"""What a conversation must not be to stay: a filter returns None, or says why the conversation goes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

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
TWO_LETTERS = re.compile(r"[^\W\d_][\W\d_]*[^\W\d_]")
ENGLISH = """
the and of that what how with you this are it have which please would should write from when your there
they their were been not if then into about but she his my to is be or for by at we our can could does
who why these those them than because between each such other some any only more make give explain help
just out up its create use also he has him know many most time like said way may first two people look made
work new day good back take need through same think did get again both while being without after before where
very much number find down
"""
ENGLISH_WORDS = frozenset(ENGLISH.split())
"""frequent in English and hardly words of another language: of such a text the detector need not be asked"""
LEAST_WORDS, LEAST_WORD_SHARE = 3, 0.2
FOREIGN_LETTER = re.compile(r"[^\W\d_a-zA-Z]")
TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d*,?\d*\}|.", re.DOTALL)
"""of a regular expression: an escape, a class, a count, or one character"""
SHORTEST_REQUIRED = 4
UNEVEN = re.compile("[ıſİ]")
"""letters that match another where case is ignored, and do not become it in lower case"""


def boilerplate(patterns: Iterable[str]) -> Filter:
    """No answer may match one of the patterns (regular expressions, case ignored).

    Raises ParamsError on a bad pattern.
    """
    searched = [(_compiled(pattern), required(pattern)) for pattern in patterns]

    def check(messages: Sequence[Message]) -> str | None:
        answers = [m.content for m in messages if m.role == "assistant"]
        possible = list(_possible(searched, "\n".join(answers)))
        for text in answers if possible else ():
            for pattern in possible:
                if match := pattern.search(text):
                    return f"an answer says {match[0].strip()!r}"
        return None

    return check


def _possible(searched: Iterable[tuple[re.Pattern[str], list[str]]], text: str) -> Iterator[re.Pattern[str]]:
    """The patterns that the text, or a part of it, may match.

    Ignoring case is slow: an expression is asked only where words are there without which nothing matches, in
    lower case unless that could hide a match.
    """
    lower = text.lower() if text.isascii() or not UNEVEN.search(text) else None
    for pattern, words in searched:
        if not words or lower is None or any(word in lower for word in words):
            yield pattern


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
        if not wanted:
            return None
        text = prose(messages)
        if (Language.ENGLISH in wanted and surely_english(text)) or not TWO_LETTERS.search(text):
            return None
        values = detector.compute_language_confidence_values(text)
        if sum(v.value for v in values if v.language in wanted) >= LEAST_SHARE:
            return None
        return f"reads like {values[0].language.name.lower()}" if values[0].value else "an unknown script"

    return check


def prose(messages: Sequence[Message]) -> str:
    """The beginning of the human turns without their code, which decides on the language."""
    text = "\n".join(m.content for m in messages if m.role == "user")
    return (FENCED.sub(" ", text) if "```" in text else text)[:EXCERPT]


def surely_english(text: str) -> bool:
    """Whether both halves have so many of English's frequent words that the detector would agree."""
    if not text.isascii() and FOREIGN_LETTER.search(text):
        return False
    frequent = [word in ENGLISH_WORDS for word in text.lower().split()]
    middle = len(frequent) // 2
    halves = frequent[:middle], frequent[middle:]
    return sum(frequent) >= LEAST_WORDS and all(sum(h) >= LEAST_WORD_SHARE * len(h) for h in halves)


def length(
    least: int,
    most: int,
    least_tokens: int | None = None,
    most_tokens: int | None = None,
    count: Callable[[str], int] = len,
) -> Filter:
    """The human turns together must have `least` to `most` characters, and so many tokens by `count`."""

    def check(messages: Sequence[Message]) -> str | None:
        turns = [m.content.strip() for m in messages if m.role == "user"]
        characters = sum(map(len, turns))
        if found := _outside(characters, least, most, "characters"):
            return found
        if least_tokens is None and most_tokens is None:
            return None
        return _outside(sum(map(count, turns)), least_tokens or 0, most_tokens, "tokens")

    return check


def _outside(number: int, least: int, most: int | None, unit: str) -> str | None:
    if number < least:
        return f"{number:,} {unit}, under {least:,}"
    return f"{number:,} {unit}, over {most:,}" if most is not None and number > most else None


def required(pattern: str) -> list[str]:
    """Words in lower case of which one is in every match of the expression; none where they cannot be told.

    The longest stretch of plain characters outside groups, for each of the alternatives.
    """
    stretches, depth = [[""]], 0
    for token in TOKEN.findall(pattern):
        depth += (token == "(") - (token == ")")
        if token == "|" and depth == 0:
            stretches.append([""])
        elif depth == 0 and (token.isalnum() or token in " ',-_") and token.isascii():
            stretches[-1][-1] += token.lower()
        else:
            if depth == 0 and token[0] in "*?{":
                stretches[-1][-1] = stretches[-1][-1][:-1]
            stretches[-1].append("")
    longest = list(dict.fromkeys(max(alternative, key=len) for alternative in stretches))
    usable = "(?" not in pattern and min(map(len, longest)) >= SHORTEST_REQUIRED
    return longest if usable else []


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise ParamsError(
            f"not a regular expression: {pattern!r} ({error})", where="extract.boilerplate"
        ) from None
