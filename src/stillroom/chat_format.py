r"""Messages ⇄ text ⇄ token ids and loss mask: the one place that knows how a conversation is spelled.

Distillation exports, packing, serving, chat and evaluation all come through here, so that a model is asked in
the very tokens that it was trained on. The `inst` format of one turn, with the learned part underlined:

    <s>[INST]\nWhy is the sky blue?\n[/INST]\n\nBecause air scatters blue light.</s>
                                               ‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾

Control tokens are looked up, never parsed from text: a user's own `<|im_end|>` stays text, and a user's own
`[INST]` is spaced out to `[ INST]`. Ids of a prompt are the same whether an answer follows or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from stillroom.errors import ModelError, ParamsError
from stillroom.records import Message

Tokenizer = Any
"""A fast transformers tokenizer; untyped so that transformers is not imported here."""

BOS, EOS = "{bos}", "{eos}"
"""Stand for the tokenizer's own begin and end tokens in the formats below."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of text, or one control token; `learn` says whether the loss is on it."""

    text: str
    control: bool = False
    learn: bool = False


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of a conversation, and for each whether the loss is on it."""

    ids: list[int]
    learn: list[bool]


@dataclass(frozen=True)
class ChatFormat:
    """How turns are wrapped. `{}` is the content; `controls` are the control tokens among the wrapping."""

    name: str
    begin: str
    system: str
    user: str
    first_user_with_system: str | None
    """where the format has no system turn: how system and first user text share one"""
    answer: str
    """what stands between the prompt and the answer"""
    end: str
    """the control token that ends an answer"""
    after: str = ""
    controls: tuple[str, ...] = (BOS, EOS)
    escapes: tuple[str, ...] = ()
    """plain-text markers that a user's text must not spell"""

    def pieces(self, messages: Sequence[Message], *, prompt: bool = False) -> list[Piece]:
        """Split a conversation into text and control tokens.

        prompt=True ends with what stands before the next answer. Adjacent texts outside answers are merged, as
        a server tokenises them.
        """
        pieces = self._wrap(self.begin)
        system = ""
        for message in messages:
            content = self.escape(message.content)
            if message.role == "system":
                if self.first_user_with_system is None:
                    pieces += self._wrap(self.system, content)
                else:
                    system = content
            elif message.role == "user":
                template = self.first_user_with_system if system else None
                pieces += self._wrap(template or self.user, content, system)
                system = ""
            else:
                pieces += self._wrap(self.answer)
                pieces += [Piece(content, learn=True), Piece(self.end, control=True, learn=True)]
                pieces += self._wrap(self.after)
        if prompt:
            pieces += self._wrap(self.answer)
        return _merge(pieces)

    def text(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        """The conversation as one text, without the begin and end tokens that a tokenizer adds."""
        pieces = self.pieces(messages, prompt=prompt)
        return "".join(" " if p.text == EOS else p.text for p in pieces if p.text != BOS).rstrip(" ")

    def escape(self, content: str) -> str:
        """Space out plain-text markers of this format: `[INST]` in a user's text is not a turn."""
        for marker in self.escapes:
            content = content.replace(marker, f"{marker[0]} {marker[1:]}")
        return content

    @property
    def stops(self) -> list[str]:
        """Texts that a completions endpoint must stop at."""
        return list(self.escapes[:1]) or [self.end]

    def jinja(self) -> str:
        """This format as a Hugging Face chat template."""

        def quoted(template: str, content: str = "", system: str = "") -> str:
            parts = re.split(r"(\{bos\}|\{eos\}|\{system\}|\{\})", template)
            names = {BOS: "bos_token", EOS: "eos_token", "{system}": system, "{}": content}
            spelled = [names.get(p) or "'" + p.replace("\n", "\\n") + "'" for p in parts if p]
            return "{{- " + " + ".join(spelled) + " -}}" if spelled else ""

        content = "message['content']"
        for marker in self.escapes:
            content += f".replace('{marker}', '{marker[0]} {marker[1:]}')"
        if self.first_user_with_system is None:
            system_turn = quoted(self.system, content)
            user_turn = quoted(self.user, content)
        else:
            system_turn = "{%- set ns.system = " + content + " -%}"
            user_turn = (
                "{%- if ns.system -%}"
                + quoted(self.first_user_with_system, content, "ns.system")
                + "{%- set ns.system = '' -%}{%- else -%}"
                + quoted(self.user, content)
                + "{%- endif -%}"
            )
        return (
            "{%- set ns = namespace(system='') -%}"
            + quoted(self.begin)
            + "{%- for message in messages -%}{%- if message['role'] == 'system' -%}"
            + system_turn
            + "{%- elif message['role'] == 'user' -%}"
            + user_turn
            + "{%- else -%}"
            + quoted(self.answer)
            + quoted("{}" + self.end + self.after, content)
            + "{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}"
            + quoted(self.answer)
            + "{%- endif -%}"
        )

    def _wrap(self, template: str, content: str = "", system: str = "") -> list[Piece]:
        """Fill a template, control tokens apart; the content is never searched for them."""
        pieces = []
        for part in re.split(self._pattern, template):
            if part in self.controls:
                pieces.append(Piece(part, control=True))
            elif part:
                pieces.append(Piece({"{}": content, "{system}": system}.get(part, part)))
        return pieces

    @property
    def _pattern(self) -> str:
        return "(" + "|".join(map(re.escape, (*self.controls, "{}", "{system}"))) + ")"


_LLAMA_3 = "<|start_header_id|>{role}<|end_header_id|>\n\n"

FORMATS = {
    f.name: f
    for f in (
        ChatFormat(
            name="inst",
            begin=BOS,
            system="",
            user="[INST]\n{}\n[/INST]\n\n",
            first_user_with_system="[INST]\n{system}\n\n{}\n[/INST]\n\n",
            answer="",
            end=EOS,
            escapes=("[INST]", "[/INST]"),
        ),
        ChatFormat(
            name="llama-2",
            begin="",
            system="",
            user=BOS + "[INST] {} [/INST] ",
            first_user_with_system=BOS + "[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{} [/INST] ",
            answer="",
            end=EOS,
            escapes=("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
        ),
        ChatFormat(
            name="llama-3",
            begin=BOS,
            system=_LLAMA_3.format(role="system") + "{}<|eot_id|>",
            user=_LLAMA_3.format(role="user") + "{}<|eot_id|>",
            first_user_with_system=None,
            answer=_LLAMA_3.format(role="assistant"),
            end="<|eot_id|>",
            controls=(BOS, "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        ),
        ChatFormat(
            name="chatml",
            begin="",
            system="<|im_start|>system\n{}<|im_end|>\n",
            user="<|im_start|>user\n{}<|im_end|>\n",
            first_user_with_system=None,
            answer="<|im_start|>assistant\n",
            end="<|im_end|>",
            after="\n",
            controls=("<|im_start|>", "<|im_end|>"),
        ),
    )
}


def get(name: str) -> ChatFormat:
    """The format of that name. Raises ParamsError with the known names."""
    try:
        return FORMATS[name]
    except KeyError:
        raise ParamsError(
            f"no chat format {name!r}", where="common.chat_format", hint=f"known: {', '.join(FORMATS)}"
        ) from None


def encode(
    chat: ChatFormat,
    tokenizer: Tokenizer,
    conversations: Iterable[Sequence[Message]],
    *,
    prompt: bool = False,
) -> list[Encoded]:
    """Token ids and loss mask of many conversations, tokenised in one batch.

    Text is encoded with control tokens off, so that none can be injected; each answer is encoded apart from
    its prompt, so that the prompt's ids are those that a server computes.
    """
    rows = [chat.pieces(messages, prompt=prompt) for messages in conversations]
    controls = {
        text: _control_id(tokenizer, text) for text in {p.text for row in rows for p in row if p.control}
    }
    texts = encode_texts(tokenizer, [p.text for row in rows for p in row if not p.control])
    encodings = iter(texts)
    encoded = []
    for row in rows:
        ids: list[int] = []
        learn: list[bool] = []
        for piece in row:
            own = controls[piece.text] if piece.control else next(encodings)
            ids += own
            learn += [piece.learn] * len(own)
        encoded.append(Encoded(ids, learn))
    return encoded


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Ids of plain texts: nothing added, and a text that spells a control token stays text."""
    backend = tokenizer.backend_tokenizer
    before = backend.encode_special_tokens
    backend.encode_special_tokens = True
    try:
        return [e.ids for e in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
    finally:
        backend.encode_special_tokens = before


def end_id(chat: ChatFormat, tokenizer: Tokenizer) -> int:
    """The token that ends an answer."""
    return _control_id(tokenizer, chat.end)[0]


def _control_id(tokenizer: Tokenizer, text: str) -> list[int]:
    """A control token's id; a begin token that the tokenizer does not have is no token at all."""
    if text == BOS:
        return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    found = tokenizer.eos_token_id if text == EOS else tokenizer.get_vocab().get(text)
    if found is None:
        raise ModelError(
            f"the tokenizer has no {'end' if text == EOS else text!r} token",
            hint="choose another common.chat_format: `inst` needs only an end token",
        )
    return [found]


def _merge(pieces: Iterable[Piece]) -> list[Piece]:
    """Join neighbouring texts outside answers; drop empty ones."""
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if last and not (last.control or piece.control or last.learn or piece.learn):
            merged[-1] = Piece(last.text + piece.text)
        elif piece.control or piece.text:
            merged.append(piece)
    return merged
