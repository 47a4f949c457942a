r"""The chat format `tokenizer`: the template that a tokenizer brings, as pieces with an exact loss mask.

    roles ──▶ render with marks for contents ──▶ skeleton     skeleton + contents ──▶ pieces

A template is a program, so what it writes is looked at, not guessed. For each sequence of roles it is
rendered once with a mark for every content: that shows which text is the template's and may hold control
tokens, and which is a user's and may not. What is learned is what the template's {% generation %} blocks
enclose, or else what stands between the prompt, as the same template renders it for serving, and the first
control token behind the answer. Then each conversation is also rendered as it stands, and must come out as
the pieces spell it: a template that drops or rewrites contents is refused, since no mask could be exact.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

from stillroom.chat_format import FORMATS, ChatFormat, Piece, Tokenizer, encode
from stillroom.errors import InputError, ModelError, ParamsError
from stillroom.records import Message

HINT = "choose one of the common.chat_formats that stillroom spells itself, e.g. `chatml`"
MARK = re.compile("\ue000(\\d+)\ue001")
"""stands for the content of the message of that number; private-use characters, which no template writes"""
SPACE = "\n "
"""around a mark, to see whether the template strips contents"""
GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


@dataclass(frozen=True, slots=True)
class Part:
    """A run of rendered text: the template's own, or (message ≥ 0) a content, perhaps stripped at an end."""

    text: str
    message: int = -1
    left: bool = False
    right: bool = False
    learn: bool = False

    def filled(self, messages: Sequence[Message]) -> str:
        """The text with its content in place."""
        if self.message < 0:
            return self.text
        content = messages[self.message].content
        content = content.lstrip() if self.left else content
        return content.rstrip() if self.right else content


@dataclass(frozen=True)
class OwnTemplate(ChatFormat):
    """The tokenizer's template, before it is known of which tokenizer."""

    def bound(self, tokenizer: Tokenizer) -> ChatFormat:
        """The template of a tokenizer. Raises ModelError where its mask cannot be exact."""
        return _template(tokenizer)

    def pieces(self, messages: Sequence[Message], *, prompt: bool = False) -> list[Piece]:
        """Raises ParamsError: a text for a completions endpoint needs a format of its own."""
        raise ParamsError(
            "the tokenizer's own template spells nothing without the tokenizer",
            where="common.chat_format",
            hint="use common.teacher.api: chat, or " + HINT,
        )

    def text(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        """An export is spelled as `inst`, since it is made without the student. Prompts: see `pieces`."""
        return super().text(messages, prompt=True) if prompt else FORMATS["inst"].text(messages)

    def jinja(self) -> str:
        """Raises ParamsError: see `pieces`."""
        self.pieces(())
        raise AssertionError


@dataclass(frozen=True)
class Template(ChatFormat):
    """A tokenizer's own template; `ends` are the tokens that its answers end with."""

    tokenizer: Tokenizer = field(default=None, compare=False, repr=False)
    source: str = ""
    skeletons: dict[tuple[Any, ...], list[Part]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Template:
        """The template of a tokenizer. Raises ModelError where it has none or its mask cannot be exact."""
        if not tokenizer.chat_template:
            raise ModelError("the tokenizer has no chat template", where="common.chat_format", hint=HINT)
        source = tokenizer.get_chat_template()
        if "strftime_now" in source:
            what = "the chat template writes the day's date: the same input would not make the same rows"
            raise ModelError(what, where="common.chat_format", hint=HINT)
        fields = {**_NAMELESS, "tokenizer": tokenizer, "source": source}
        draft = cls(**fields)
        try:
            draft.verify()
            [end] = [p.text for p in draft.pieces(_PROBE[:2]) if p.control and p.learn][-1:] or [""]
        except InputError as error:
            raise ModelError(error.what, where="common.chat_format", hint=HINT) from None
        if not end:
            what = "the chat template ends an answer with no control token"
            raise ModelError(what, where="common.chat_format", hint=HINT)
        return cls(**{**fields, "end": end})

    def verify(self) -> None:
        """Hold ids of probes against `apply_chat_template`. Raises ModelError where they differ."""
        for turns in (1, 3):
            # Later prompts hold an answer, whose ids may differ at its beginning from the whole text's.
            ours = encode(self, self.tokenizer, [_PROBE[:turns]], prompt=True)[0].ids
            served = self.tokenizer.apply_chat_template(
                _rows(_PROBE[:turns]), add_generation_prompt=True, return_dict=False
            )
            same = ours == served if turns == 1 else self._decoded(ours) == self._decoded(served)
            if not same:
                what = "the chat template's pieces do not make the ids that a server computes"
                raise ModelError(what, where="common.chat_format", hint=HINT)

    def bound(self, tokenizer: Tokenizer) -> ChatFormat:
        """This template, if it is the tokenizer's; else the tokenizer's own."""
        return self if tokenizer is self.tokenizer else OWN.bound(tokenizer)

    def jinja(self) -> str:
        """The template itself."""
        return self.source

    @property
    def stops(self) -> list[str]:
        """Texts that a completions endpoint must stop at."""
        return [self.end]

    def text(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        """The conversation as one text, control tokens spelled out."""
        return "".join(piece.text for piece in self.pieces(messages, prompt=prompt))

    def pieces(self, messages: Sequence[Message], *, prompt: bool = False) -> list[Piece]:
        """Split a conversation into text and control tokens.

        Raises InputError where the template refuses the conversation, or writes its contents otherwise than
        as they stand; ModelError where no exact mask can be found.
        """
        key = (prompt, *(message.role for message in messages))
        if key not in self.skeletons:
            self.skeletons[key] = self._skeleton(messages, prompt)
        skeleton = self.skeletons[key]
        filled = "".join(part.filled(messages) for part in skeleton)
        if filled != self._render(messages, prompt):
            beginning = next((m.content[:60] for m in messages), "")
            raise InputError(
                f"the chat template does not write this conversation as it stands: {beginning!r}", hint=HINT
            )
        return self._stripped(self._split(skeleton, messages))

    def _render(self, messages: Sequence[Message], prompt: bool) -> str:
        """What transformers writes. Raises InputError where the template refuses."""
        from jinja2 import TemplateError

        try:
            rendered: str = self.tokenizer.apply_chat_template(
                _rows(messages), tokenize=False, add_generation_prompt=prompt
            )
        except TemplateError as error:
            roles = " ".join(message.role for message in messages)
            raise InputError(f"the chat template refuses the roles `{roles}`: {error}", hint=HINT) from None
        return rendered

    def _skeleton(self, messages: Sequence[Message], prompt: bool) -> list[Part]:
        """The parts of any conversation with these roles."""
        bare, spaced = _marked(messages, ""), _marked(messages, SPACE)
        text = self._render(bare, prompt)
        spans = self._answers(bare, text)
        cuts = sorted({0, len(text), *(at for span in spans for at in span)})
        cuts = sorted({*cuts, *(at for found in MARK.finditer(text) for at in found.span())})
        edges = [(found[0], found[2]) for found in _EDGES.findall(self._render(spaced, prompt))]
        parts: list[Part] = []
        for start, end in pairwise(cuts):
            learn = any(a <= start and end <= b for a, b in spans)
            if mark := MARK.fullmatch(text, start, end):
                left, right = edges[sum(part.message >= 0 for part in parts)]
                parts.append(Part("", int(mark[1]), left != SPACE, right != SPACE[::-1], learn))
            else:
                parts.append(Part(text[start:end], learn=learn))
        return parts

    def _answers(self, messages: Sequence[Message], text: str) -> list[tuple[int, int]]:
        """Where each answer stands with its end token. Raises ModelError where that is unclear."""
        answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
        begins = [self._boundary(messages[:i], text) for i in answers]
        if GENERATION.search(self.source):
            spans = self._generated(messages)
            if [start for start, _ in spans] != begins:
                what = "a {% generation %} block of the chat template does not begin where its prompt ends"
                raise ModelError(what, where="common.chat_format", hint=HINT)
            return spans
        places = {int(found[1]): found.end() for found in MARK.finditer(text)}
        answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
        return [
            (start, self._end(text, places.get(i, len(text))))
            for start, i in zip(begins, answers, strict=True)
        ]

    def _boundary(self, before: Sequence[Message], text: str) -> int:
        """Where the answer after these messages begins: where their prompt, as served, ends."""
        prompt = self._render(before, True)
        if not text.startswith(prompt):
            what = "the chat template writes a prompt otherwise before an answer than when it asks for one"
            raise ModelError(what, where="common.chat_format", hint=HINT)
        return len(prompt)

    def _end(self, text: str, content_end: int) -> int:
        """Where the first control token behind a content ends."""
        control = self._controls.search(text, content_end)
        mark = MARK.search(text, content_end)
        if control is None or (mark is not None and mark.start() < control.start()):
            what = "the chat template ends an answer with no control token"
            raise ModelError(what, where="common.chat_format", hint=HINT)
        return control.end()

    def _generated(self, messages: Sequence[Message]) -> list[tuple[int, int]]:
        """The spans of the {% generation %} blocks."""
        from transformers.utils.chat_template_utils import render_jinja_template

        _, spans = render_jinja_template(
            conversations=[_rows(messages)],
            chat_template=self.source,
            return_assistant_tokens_mask=True,
            **self.tokenizer.special_tokens_map,
        )
        return [(int(start), int(end)) for start, end in spans[0]]

    def _split(self, skeleton: Sequence[Part], messages: Sequence[Message]) -> list[Piece]:
        """Parts as pieces: control tokens apart, texts between them joined up to where an answer begins."""
        pieces: list[Piece] = []
        for part in skeleton:
            own = part.message < 0
            texts = self._controls.split(part.text) if own else [part.filled(messages)]
            for at, text in enumerate(texts):
                control = own and at % 2 == 1
                last = pieces[-1] if pieces else None
                joined = last and not control and not last.control and last.learn == part.learn
                if last and joined:
                    pieces[-1] = Piece(last.text + text, learn=part.learn)
                elif text:
                    pieces.append(Piece(text, control, part.learn))
        return pieces

    def _stripped(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Without the white space that control tokens swallow, as a server's tokenizer does it."""
        found: list[Piece] = []
        for before, piece, after in zip((None, *pieces), pieces, (*pieces[1:], None), strict=False):
            text = piece.text
            if not piece.control and not piece.learn:
                text = text.lstrip() if before and before.text in self._greedy[1] else text
                text = text.rstrip() if after and after.text in self._greedy[0] else text
            if text:
                found.append(Piece(text, piece.control, piece.learn))
        return found

    @cached_property
    def _specials(self) -> list[Any]:
        return [token for token in self.tokenizer.added_tokens_decoder.values() if token.special]

    @cached_property
    def _controls(self) -> re.Pattern[str]:
        """The control tokens, longest first, as one group."""
        texts = sorted((token.content for token in self._specials), key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, texts)) + ")")

    @cached_property
    def _greedy(self) -> tuple[set[str], set[str]]:
        """The control tokens that swallow the white space before them, and behind them."""
        lefts = {token.content for token in self._specials if token.lstrip}
        return lefts, {token.content for token in self._specials if token.rstrip}

    def _decoded(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(ids)
        return text


def _rows(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _marked(messages: Sequence[Message], space: str) -> list[Message]:
    """The messages with marks for contents, white space around them."""
    return [
        Message(message.role, f"{space}\ue000{i}\ue001{space[::-1]}") for i, message in enumerate(messages)
    ]


_EDGES = re.compile(f"({SPACE})?(\ue000\\d+\ue001)({SPACE[::-1]})?")
_NAMELESS = {
    "name": "tokenizer",
    "begin": "",
    "system": "",
    "user": "",
    "first_user_with_system": None,
    "answer": "",
    "end": "",
    "controls": (),
}
OWN = OwnTemplate(**_NAMELESS)  # type: ignore[arg-type]
_PROBE = (
    Message("user", "Why is the sky blue?"),
    Message("assistant", "Because air scatters blue light."),
    Message("user", "And a glacier?"),
)


@lru_cache(maxsize=8)
def _template(tokenizer: Tokenizer) -> Template:
    """A tokenizer's template, verified once."""
    return Template.of(tokenizer)
