"""A teacher's answer about a passage: held against it, put right, asked for again, or rejected.

Request ──▶ ask ──▶ Reply: the text that is used, and what was made of every answer on the way

    reply = yield from answers.ask(request, passage, policies)      # within a dialogue

An answer must be whole, quote the passage between its marks and end with `<ANSWER>: …`. What becomes of one
that does not is a policy for each fault. Whatever was bought stays in the response cache and the snapshot.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import Field

from stillroom.params import Settings
from stillroom.raft import quotations
from stillroom.squad import normalise
from stillroom.teacher import verdicts
from stillroom.teacher.prompts import ANSWER_TAG, QUOTE_BEGIN, QUOTE_END
from stillroom.teacher.replies import quotes, spaced
from stillroom.teacher.requests import TOO_LONG, Answer, Dialogue, Request

Fault = Literal["unfinished", "no_answer_tag", "empty_answer", "no_quote", "quote_not_in_chunk"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
"""in the order in which they are looked for"""
Fate = Literal["kept", "repaired", "retried", "rejected"]
Unmendable = Literal["reject", "retry"]
Mendable = Literal["reject", "repair", "retry", "repair_or_retry"]
GOOD = "good"

QUOTE = re.compile(f"{re.escape(QUOTE_BEGIN)}(.*?){re.escape(QUOTE_END)}", re.DOTALL)
MISSPELT = tuple(
    (re.compile(rf"[#<\[{{*_]+\s*{word}[ _-]?quote\s*[#>\]}}*_]*|{tag}", re.IGNORECASE), mark)
    for word, tag, mark in (("begin", "<quote>", QUOTE_BEGIN), ("end", "</quote>", QUOTE_END))
)
"""other spellings of the marks: `##Begin_Quote ##`, `<end_quote>`, `<quote>`"""
QUOTED = re.compile(r"\"([^\"\n]+)\"|“([^”]+)”|«([^»]+)»|^[ \t]*>[ \t]*(.+)$", re.MULTILINE)
"""a quotation as people write one"""
QUOTED_WORDS = 3
"""fewest words in quotation marks that are taken for a quotation: fewer may be a name"""
OPENING = re.compile(r"<[ ]?(?:final[ _]?)?answer[ ]?>(?:\*\*)?[ ]?[:：]?(?:\*\*)?", re.IGNORECASE)
CLOSING = re.compile(r"<[ ]?/[ ]?(?:final[ _]?)?answer[ ]?>", re.IGNORECASE)
"""other spellings of the tag: `**<answer>:** 7`, `<final answer>7</final answer>`"""
LABELLED = re.compile(
    r"[ \t*_#>-]*(?:the )?(?:(?:final|short|correct|succinct) )?answer[ *_]*[:：](?:\*\*)?(?P<short>.*)",
    re.IGNORECASE,
)
STATED = re.compile(
    r"(?:(?:so|thus|hence|therefore|in short|in conclusion),? )?"
    r"the (?:(?:final|short|correct) )?answer is\b[ :]*(?P<short>.+)",
    re.IGNORECASE,
)
"""last lines that give the answer without a tag: `**Final answer:** 7`, `So the answer is 7`"""


class Policies(Settings):
    """What becomes of an answer with a fault; what cannot be repaired is rejected, or asked for again."""

    unfinished: Unmendable = "reject"
    """cut, filtered or refused by the endpoint; retry asks with twice the tokens where it was cut"""
    no_answer_tag: Mendable = "repair"
    """no `<ANSWER>:`; repair: a last line such as `Final answer: …` gets it"""
    empty_answer: Unmendable = "reject"
    """nothing after the tag"""
    no_quote: Mendable = "repair"
    """nothing between the marks; repair: misspelt ones, and what stands in quotation marks"""
    quote_not_in_chunk: Mendable = "repair"
    """repair: it is there but for white space, case, dashes, quotation or Markdown marks"""
    retries: int = Field(default=1, ge=0)
    """most retries of a question, each the next sample; at temperature 0 it may say the same"""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a question's answer came to."""

    answer: Answer
    text: str | None
    """as it is used; None where it is rejected"""
    judged: tuple[tuple[str, Fate], ...]
    """every fault that was found, and what was done; or (`good`, `kept`)"""

    @property
    def repaired(self) -> tuple[str, ...]:
        """The faults of this answer that were put right."""
        return tuple(fault for fault, fate in self.judged if fate == "repaired")


def ask(request: Request, passage: str, policies: Policies) -> Dialogue[Reply]:
    """Ask, and ask again as long as the policies say so and retries are left."""
    judged: list[tuple[str, Fate]] = []
    retries = 0
    while True:
        answer = yield request
        text, mended, left = _examined(answer, passage, policies)
        if left is None:
            done: list[tuple[str, Fate]] = [(fault, "repaired") for fault in mended]
            return Reply(answer, text, (*judged, *(done or [(GOOD, "kept")])))
        again = "retry" in getattr(policies, left) and retries < policies.retries
        if not again or answer.finish_reason == TOO_LONG:
            return Reply(answer, None, (*judged, (left, "rejected")))
        judged.append((left, "retried"))
        retries += 1
        verdict = verdicts.FINISHED.get(answer.finish_reason, "other")
        request = verdicts.retried(request, verdict, verdicts.Policies(), 1)


def _examined(answer: Answer, passage: str, policies: Policies) -> tuple[str, list[Fault], Fault | None]:
    """The text with its faults put right as far as the policies want and it goes; those; the one left."""
    text = answer.text.strip()
    mended: list[Fault] = []
    if not answer.key:
        return text, mended, None  # an estimate imagines it: nothing to examine
    while left := fault(text, answer.finish_reason, passage):
        wanted = "repair" in getattr(policies, left) and left not in mended
        better = repaired(left, text, passage) if wanted else None
        if better is None:
            return text, mended, left
        text = better
        mended.append(left)
    return text, mended, None


def fault(text: str, finish_reason: str, passage: str) -> Fault | None:
    """The first fault of an answer, None where it can be used."""
    if verdicts.FINISHED.get(finish_reason) != "complete":
        return "unfinished"
    reasoning, tag, short = text.rpartition(ANSWER_TAG)
    if not tag or reasoning.endswith(("*", "_")):
        return "no_answer_tag"
    if not normalise(short):
        return "empty_answer"
    said = quotes(reasoning)
    if not said:
        return "no_quote"
    return None if all(spaced(quote) in spaced(passage) for quote in said) else "quote_not_in_chunk"


def repaired(fault: Fault, text: str, passage: str) -> str | None:
    """The answer without that fault, None where it cannot be put right."""
    if fault == "no_answer_tag":
        return _tagged(text)
    if fault == "no_quote":
        return _marked(text, passage)
    return _quoting(text, passage) if fault == "quote_not_in_chunk" else None


def _tagged(text: str) -> str | None:
    """The answer with the tag in place of another spelling of it, or of another form of a last line."""
    parts = _at_tag(text) or _at_last_line(text)
    return f"{_even(parts[0])}\n{ANSWER_TAG} {_even(parts[1])}" if parts else None


def _at_tag(text: str) -> tuple[str, str] | None:
    """What stands before and after the last tag, however it is spelt."""
    if not (tags := list(OPENING.finditer(text))):
        return None
    return text[: tags[-1].start()], CLOSING.sub("", text[tags[-1].end() :])


def _at_last_line(text: str) -> tuple[str, str] | None:
    """The reasoning, and the answer that the last line gives; its label may have a line of its own."""
    above, _, last = text.rpartition("\n")
    if found := LABELLED.match(last):
        return above, found["short"]
    before, _, label = above.rstrip().rpartition("\n")
    if (found := LABELLED.fullmatch(label)) and not _even(found["short"]):
        return before, last
    if found := STATED.search(last):
        return f"{above}\n{last[: found.start()]}", found["short"].removesuffix(".")
    return None


def _even(text: str) -> str:
    """A text without the half of a pair of `**` that the cut left at its edge."""
    text = text.strip()
    return text if text.count("**") % 2 == 0 else text.removesuffix("**").removeprefix("**").strip()


def _marked(text: str, passage: str) -> str | None:
    """The answer with marks around what it quotes: for misspelt ones, else for quotation marks."""
    spelt = text
    for pattern, mark in MISSPELT:
        spelt = pattern.sub(mark, spelt)
    if quotes(spelt.rpartition(ANSWER_TAG)[0]):
        return spelt
    reasoning, tag, short = text.rpartition(ANSWER_TAG)
    marked = QUOTED.sub(lambda found: _own_words(found, passage) or found[0], reasoning)
    return f"{marked}{tag}{short}" if marked != reasoning else None


def _own_words(found: re.Match[str], passage: str) -> str | None:
    """A quotation in quotation marks as one in ours, None where the passage does not hold it."""
    words = next(group for group in found.groups() if group)
    return quoted(words, passage) if len(words.split()) >= QUOTED_WORDS else None


def _quoting(text: str, passage: str) -> str | None:
    """The answer with the passage's own words in its quotations, None where one is not in the passage."""
    own = {found[1]: quoted(found[1], passage) for found in QUOTE.finditer(text) if found[1].strip()}
    if None in own.values():
        return None
    return QUOTE.sub(lambda found: own.get(found[1]) or found[0], text)


def quoted(words: str, passage: str) -> str | None:
    """The passage's own words for a quotation, within the marks; where it leaves some out, in parts."""
    spans = quotations.found(words, passage)
    if spans is None:
        return None
    return " … ".join(f"{QUOTE_BEGIN}{passage[start:end]}{QUOTE_END}" for start, end in spans)
