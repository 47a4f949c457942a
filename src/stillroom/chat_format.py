r"""Messages ⇄ text ⇄ token ids and loss mask: the one place that knows how a conversation is spelled.

Distillation exports, packing, serving, chat and evaluation all come through here, so that a model is asked in
the very tokens that it was trained on. The `inst` format of one turn, with the learned part underlined:

    <s>[INST]\nWhy is the sky blue?\n[/INST]\n\nBecause air scatters blue light.</s>
                                               ‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾

Control tokens are looked up, never parsed from text: a user's own `<|im_end|>` stays text, and a user's own
`[INST]` is spaced out to `[ INST]`. Ids of a prompt are the same whether an answer follows or not, and an
answer is spelled as the continuation that a model generates: a tokenizer that begins every text with a space
(SentencePiece) does not put one before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from stillroom.artifacts import read_json
from stillroom.errors import InputError, ModelError, ParamsError
from stillroom.records import Conversation, Message
from stillroom.tokenising import Codec, Encoder, Ints, Longs, Place, Words

Tokenizer = Any
"""A fast transformers tokenizer; untyped so that transformers is not imported here."""

BATCH_CHARACTERS = 2_000_000
"""of text that are tokenised together: enough for every core, little enough for memory"""

BOS, EOS = "{bos}", "{eos}"
"""Stand for the tokenizer's own begin and end tokens in the formats below."""


class Piece(NamedTuple):
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
class Rows:
    """Token ids of conversations end to end, for each whether the loss is on it; row i is bounds[i:i + 2]."""

    ids: Ints
    learn: np.ndarray[Any, np.dtype[np.bool_]]
    bounds: Longs

    def lists(self) -> list[Encoded]:
        """The rows one by one."""
        ids, learn, bounds = self.ids.tolist(), self.learn.tolist(), self.bounds.tolist()
        return [Encoded(ids[start:end], learn[start:end]) for start, end in pairwise(bounds)]


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
    lead: str = ""
    """white space that an answer begins with, which the model learns to write"""
    after: str = ""
    controls: tuple[str, ...] = (BOS, EOS)
    escapes: tuple[str, ...] = ()
    """plain-text markers that a user's text must not spell"""

    def pieces(self, messages: Sequence[Message], *, prompt: bool = False) -> list[Piece]:
        """Split a conversation into text and control tokens.

        prompt=True ends with what stands before the next answer. Adjacent texts outside answers are merged,
        as a server tokenises them. Raises InputError where a system message has no user's after it.
        """
        pieces = self._wrap(self.begin)
        system = ""
        for message in messages:
            content = self.escape(message.content)
            if message.role == "system":
                if self.first_user_with_system is None:
                    pieces += self._wrap(self.system, content)
                else:
                    system = f"{system}\n\n{content}" if system else content
            elif message.role == "user":
                template = self.first_user_with_system if system else None
                pieces += self._wrap(template or self.user, content, system)
                system = ""
            else:
                pieces += self._wrap(self.answer)
                pieces += [Piece(self.lead + content, learn=True), Piece(self.end, control=True, learn=True)]
                pieces += self._wrap(self.after)
        if system:
            raise InputError(f"a system message without a user's after it: {system[:60]!r}")
        if prompt:
            pieces += self._wrap(self.answer)
        return _merge(pieces)

    def bound(self, tokenizer: Tokenizer) -> ChatFormat:
        """The format as this tokenizer spells it; only the tokenizer's own template differs by tokenizer."""
        return self

    def text(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        """The conversation as one text, without the begin and end tokens that a tokenizer adds."""
        left_out = {BOS: "", EOS: " "}
        pieces = self.pieces(messages, prompt=prompt)
        return "".join(left_out.get(p.text, p.text) if p.control else p.text for p in pieces).rstrip(" ")

    def escape(self, content: str) -> str:
        """Space out plain-text markers of this format: `[INST]` in a user's text is not a turn."""
        for marker, spaced in self._spaced:
            content = content.replace(marker, spaced)
        return content

    @property
    def stops(self) -> list[str]:
        """Texts that a completions endpoint must stop at."""
        return list(self.escapes[:1]) or [self.end]

    def jinja(self) -> str:
        """This format as a Hugging Face chat template."""
        content = "message['content']"
        for marker in self.escapes:
            content += f".replace('{marker}', '{marker[0]} {marker[1:]}')"
        if self.first_user_with_system is None:
            system_turn = _spell(self.system, content)
            user_turn = _spell(self.user, content)
        else:
            more = f"ns.system + '\\n\\n' + {content} if ns.system else {content}"
            system_turn = "{%- set ns.system = " + more + " -%}"
            with_system = _spell(self.first_user_with_system, content, "ns.system")
            user_turn = (
                "{%- if ns.system -%}" + with_system + "{%- set ns.system = '' -%}"
                "{%- else -%}" + _spell(self.user, content) + "{%- endif -%}"
            )
        answer_turn = _spell(self.answer + self.lead + "{}" + self.end + self.after, content)
        return (
            "{%- set ns = namespace(system='') -%}"
            + _spell(self.begin)
            + "{%- for message in messages -%}{%- if message['role'] == 'system' -%}"
            + system_turn
            + "{%- elif message['role'] == 'user' -%}"
            + user_turn
            + "{%- elif message['role'] == 'assistant' -%}"
            + answer_turn
            + "{%- else -%}{{- raise_exception('unknown role: ' + message['role']) -}}{%- endif -%}"
            + "{%- endfor -%}{%- if add_generation_prompt -%}"
            + _spell(self.answer)
            + "{%- endif -%}"
        )

    def _wrap(self, template: str, content: str = "", system: str = "") -> list[Piece]:
        """Fill a template, control tokens apart; the content is never searched for them."""
        filled = {"{}": content, "{system}": system}
        return [
            part if isinstance(part, Piece) else Piece("".join([filled.get(p, p) for p in part]))
            for part in _parts(template, self.controls)
        ]

    @cached_property
    def _spaced(self) -> list[tuple[str, str]]:
        return [(marker, f"{marker[0]} {marker[1:]}") for marker in self.escapes]


@cache
def _parts(template: str, controls: tuple[str, ...]) -> list[Piece | list[str]]:
    """A template taken apart, once: control tokens, and runs of text with the names of what fills them."""
    pattern = "|".join(map(re.escape, (*controls, "{}", "{system}")))
    parts: list[Piece | list[str]] = []
    for part in filter(None, re.split(f"({pattern})", template)):
        if part in controls:
            parts.append(Piece(part, control=True))
        elif parts and isinstance(parts[-1], list):
            parts[-1].append(part)
        else:
            parts.append([part])
    return parts


def _spell(template: str, content: str = "", system: str = "") -> str:
    """A template as a Jinja expression; a tokenizer without a begin token spells none."""
    names = {BOS: "(bos_token or '')", EOS: "eos_token", "{system}": system, "{}": content}
    parts = re.split(r"(\{bos\}|\{eos\}|\{system\}|\{\})", template)
    spelled = [names.get(p) or "'" + p.replace("\n", "\\n") + "'" for p in parts if p]
    return "{{- " + " + ".join(spelled) + " -}}" if spelled else ""


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
            user=BOS + "[INST] {} [/INST]",
            first_user_with_system=BOS + "[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{} [/INST]",
            answer="",
            end=EOS,
            lead=" ",
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
    """The format of that name; `tokenizer` is the tokenizer's own template. Raises ParamsError if unknown."""
    from stillroom.chat_template import OWN

    if name == OWN.name:
        return OWN
    try:
        return FORMATS[name]
    except KeyError:
        known = ", ".join((*FORMATS, OWN.name))
        raise ParamsError(
            f"no chat format {name!r}", where="common.chat_format", hint=f"known: {known}"
        ) from None


def load_tokenizer(folder: Path) -> Tokenizer:
    """The fast tokenizer of a Hugging Face folder. Raises ModelError where there is none."""
    try:
        tokenizer = _tokenizer_class(folder).from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"no tokenizer can be loaded: {first}", where=str(folder)) from None
    if not tokenizer.is_fast:
        raise ModelError("the tokenizer is not a fast one (no tokenizer.json)", where=str(folder))
    return tokenizer


def _tokenizer_class(folder: Path) -> Any:
    """The generic class where the folder names it, else transformers' choice, 2 s slower to import."""
    config = folder / "tokenizer_config.json"
    named = read_json(config).get("tokenizer_class") if config.is_file() else None
    if named in ("PreTrainedTokenizerFast", "TokenizersBackend"):
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast
    from transformers import AutoTokenizer

    return AutoTokenizer


def encode(
    chat: ChatFormat,
    tokenizer: Tokenizer,
    conversations: Iterable[Sequence[Message]],
    *,
    prompt: bool = False,
) -> list[Encoded]:
    """Token ids and loss mask of many conversations, tokenised in one batch: see `encode_rows`."""
    rows = encode_rows(chat, tokenizer, conversations, codec(tokenizer), prompt=prompt)
    return rows.lists()


def encode_rows(
    chat: ChatFormat,
    tokenizer: Tokenizer,
    conversations: Iterable[Sequence[Message]],
    encoder: Encoder,
    *,
    prompt: bool = False,
) -> Rows:
    """Token ids and loss mask of many conversations as flat arrays.

    `encoder` is the tokenizer's codec, or a table of words before it. Text is encoded with control tokens
    off, so that none can be injected; each answer is encoded apart from its prompt, so that the prompt's ids
    are those that a server computes.
    """
    chat = chat.bound(tokenizer)
    rows = [chat.pieces(messages, prompt=prompt) for messages in conversations]
    pieces = [piece for row in rows for piece in row]
    known = {text: _control_id(tokenizer, text) for text in {p.text for p in pieces if p.control}}
    controls = np.fromiter((p.control for p in pieces), bool, len(pieces))
    lengths = np.fromiter((len(known[p.text]) if p.control else 0 for p in pieces), np.int64, len(pieces))
    texts = encoder.ragged([p.text for p in pieces if not p.control], places(rows, known))
    lengths[~controls] = texts.lengths
    spelled = np.repeat(controls, lengths)
    ids = np.empty(len(spelled), dtype=np.int32)
    ids[spelled] = [i for p in pieces if p.control for i in known[p.text]]
    ids[~spelled] = texts.ids
    learn = np.repeat(np.fromiter((p.learn for p in pieces), bool, len(pieces)), lengths)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return Rows(ids, learn, ends[np.cumsum([0, *map(len, rows)])])


def places(rows: Iterable[Sequence[Piece]], known: Mapping[str, Sequence[int]]) -> list[Place]:
    """Where each text stands: a row that begins with a token which the tokenizer lacks begins with text."""
    found: list[Place] = []
    for row in rows:
        first = True
        for piece in row:
            if not piece.control:
                found.append("continued" if piece.learn else "first" if first else "inner")
            first = first and piece.control and not known[piece.text]
    return found


def encode_stream(
    chat: ChatFormat, tokenizer: Tokenizer, records: Iterable[Conversation]
) -> Iterator[tuple[Conversation, Encoded]]:
    """Encode any number of records, in batches of about BATCH_CHARACTERS of text."""
    words = Words(codec(tokenizer))
    for batch in _batches(records):
        rows = encode_rows(chat, tokenizer, [record.messages for record in batch], words)
        yield from zip(batch, rows.lists(), strict=True)


def _batches(records: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    batch: list[Conversation] = []
    characters = 0
    for record in records:
        batch.append(record)
        characters += sum(len(message.content) for message in record.messages)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Ids of plain texts: nothing added, and a text that spells a control token stays text."""
    return codec(tokenizer).encode(texts)


def end_id(chat: ChatFormat, tokenizer: Tokenizer) -> int:
    """The token that ends an answer."""
    return _control_id(tokenizer, chat.bound(tokenizer).end)[0]


_CODECS: WeakKeyDictionary[Tokenizer, Codec] = WeakKeyDictionary()


def codec(tokenizer: Tokenizer) -> Codec:
    """The tokenizer's own copies for text, made once."""
    if tokenizer not in _CODECS:
        _CODECS[tokenizer] = Codec(tokenizer.backend_tokenizer)
    return _CODECS[tokenizer]


def _control_id(tokenizer: Tokenizer, text: str) -> list[int]:
    """A control token's id; a begin token that the tokenizer does not have is no token at all."""
    if text == BOS:
        return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    found = tokenizer.eos_token_id if text == EOS else tokenizer.backend_tokenizer.token_to_id(text)
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
