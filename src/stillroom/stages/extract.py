"""Raw conversation dumps, cleaned, down to what the teacher will be asked.

data/raw/conversations, data/raw/tokenizer ──▶ extract ──▶ conversations.jsonl, extract-dropped.jsonl

    stillroom extract
    stillroom extract --explain ID      # what each step does to one record, and why it stays or goes

The steps run in the order of `steps`. Most look at one record alone: they run in worker processes, which
parse, clean and serialise batches of records. Those of COMPARING, which come last, look at the records before
as well: they run here, record by record in the order of the files, and after them `sample` draws. What is
dropped is listed with the step's name as the reason and what exactly was wrong. What grows with the input
stands on disk (`cleaning.scratch`), so memory is bounded; the number of processes does not change the output.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import orjson
from pydantic import Field, field_validator

from stillroom import processes
from stillroom.artifacts import atomic_write, sha256, write_json, write_jsonl
from stillroom.cleaning import duplicates, filters, markup, near_duplicates, redaction, turns
from stillroom.cleaning.duplicates import Check
from stillroom.cleaning.likeness import Likeness
from stillroom.cleaning.scratch import Cleaned, Scratch, scratch
from stillroom.errors import InputError, ParamsError
from stillroom.params import Block
from stillroom.progress import track
from stillroom.records import Conversation, Message, conversation
from stillroom.sources.adapter import Dropped
from stillroom.sources.conversations import conversation_of, raw_conversations
from stillroom.sources.dumps import COMPRESSED, Raw, dump_files, ending

Step = Callable[[Conversation], Conversation | str]
"""gives the cleaned conversation, or says why it is dropped"""
Comparing = Literal["duplicate_ids", "duplicate_turns", "near_duplicates"]
StepName = Literal[
    "html_to_markdown",
    "copy_code",
    "page_residue",
    "empty_turns",
    "alternation",
    "boilerplate",
    "redact",
    "language",
    "length",
    "duplicate_ids",
    "duplicate_turns",
    "near_duplicates",
]
COMPARING = get_args(Comparing)
"""steps that look at other records than their own"""
VENDOR_NOTICES = [
    r"as an ai (language )?model",
    r"(developed|trained|created|made) by openai",
    r"help\.openai\.com|openai'?s? (content|usage) polic",
    r"knowledge cutoff",
    r"too many requests in 1 hour",
    r"there was an error generating a response",
    r"^\s*network error\s*$",
]
BATCH = 1 << 19
"""bytes of raw records that a worker gets at a time"""
SMALL = 8 << 20
"""bytes of input that one process cleans sooner than others would start"""
MOST_PROCESSES = 4
"""splitting the files keeps no more of them busy"""


class Params(Block):
    """Settings of `extract`."""

    common_keys = ("seed",)

    seed: int = 42
    """of the sample"""
    keep: Literal["human", "all"] = "human"
    """human: only the human turns, for a teacher to answer; all: the original answers too"""
    steps: list[StepName] = [name for name in get_args(StepName) if name != "redact"]
    """cleaning steps, in their order; one that is not listed is off; (near-)duplicates come last"""
    boilerplate: list[str] = VENDOR_NOTICES
    """regular expressions; a conversation with an answer that matches one is dropped"""
    redact_emails: bool = True
    """whether the step redact writes [email] for addresses"""
    redact_secrets: bool = True
    """whether the step redact writes [secret] for keys, tokens and passwords"""
    languages: list[str] = ["english"]
    """of the human turns; empty: any"""
    min_characters: int = 1
    """of a conversation's human turns together"""
    max_characters: int = 100_000
    """of a conversation's human turns together"""
    min_tokens: int | None = None
    """of a conversation's human turns together, as `fetch.sources.tokenizer` counts them"""
    max_tokens: int | None = None
    """of a conversation's human turns together, as `fetch.sources.tokenizer` counts them"""
    near_threshold: float = 0.8
    """least Jaccard similarity of two conversations' human turns that makes the later one a near-duplicate"""
    near_ngram: int = 5
    """words of the runs whose share is that similarity"""
    near_permutations: int = 128
    """length of the MinHash signatures; more find more of the pairs close to the threshold"""
    sample: int | None = Field(default=None, ge=0)
    """how many conversations to draw; null: all"""
    on_malformed: Literal["skip", "stop"] = "skip"
    """what becomes of a record that cannot be read: listed with the dropped ones, or the end of the stage"""

    @field_validator("steps")
    @classmethod
    def _ordered(cls, steps: list[StepName]) -> list[StepName]:
        """Comparing steps last, each step once."""
        twice = [name for name, count in Counter(steps).items() if count > 1]
        if twice:
            raise ValueError(f"{twice[0]} is listed twice")
        if steps != sorted(steps, key=COMPARING.__contains__):
            raise ValueError(
                f"{', '.join(COMPARING)} look at other records and must come after all other steps"
            )
        return steps

    @field_validator("near_threshold")
    @classmethod
    def _share(cls, value: float) -> float:
        if not 0 < value <= 1:
            raise ValueError("above 0 and at most 1")
        return value

    @field_validator("near_ngram", "near_permutations")
    @classmethod
    def _positive(cls, value: int) -> int:
        if value < 1:
            raise ValueError("at least 1")
        return value


@dataclass(frozen=True)
class Paths:
    """What the stage reads and writes."""

    raw: Path = Path("data/raw/conversations")
    tokenizer: Path = Path("data/raw/tokenizer")
    conversations: Path = Path("data/interim/conversations.jsonl")
    dropped: Path = Path("reports/samples/extract-dropped.jsonl")
    metrics: Path = Path("reports/metrics/extract.json")


class Batch(NamedTuple):
    """Records of one file, and how many bytes of the input they account for."""

    name: str
    records: list[Raw]
    size: int


class Result(NamedTuple):
    """What became of a batch's records, one each, and how many of them each step changed."""

    found: list[Cleaned | Dropped]
    changed: Counter[str]


@dataclass
class Tally:
    """How far the reading is: bytes, records, those dropped, and how many each step changed."""

    read: int = 0
    records: int = 0
    dropped: int = 0
    changed: Counter[str] = field(default_factory=Counter)


def run(paths: Paths, params: Params, workers: int | None = None) -> None:
    """Clean all dumps of the folder with `workers` processes, by default one per core.

    Raises InputError on a file of unknown shape, a broken record (`on_malformed: stop`), or an id that two
    conversations have.
    """
    tally = Tally()
    with scratch(paths.conversations.with_name(".extract.partial")) as kept:
        with shown(paths.raw) as progress:
            for _ in extracted(paths.raw, params, kept, tally, workers, progress, paths.tokenizer):
                pass
        sample(kept, params)
        write(kept, paths.conversations)
        write_jsonl(paths.dropped, (asdict(row) for row in kept.dropped()))
        found = metrics(kept, tally)
        write_json(paths.metrics, found)
    print(f"extract: {summary(found)}: {paths.dropped}", file=sys.stderr)


def cleaned(dump: Path, params: Params) -> list[Conversation]:
    """The conversations of one dump that pass every step, in its order and without a stage's files."""
    with tempfile.TemporaryDirectory() as folder, scratch(Path(folder) / "extract") as kept:
        for _ in extracted(dump, params, kept, Tally()):
            pass
        return [conversation(orjson.loads(line), identifier) for identifier, line in kept.lines("start")]


def extracted(
    raw: Path,
    params: Params,
    kept: Scratch,
    tally: Tally,
    workers: int | None = None,
    progress: Callable[[Tally], None] = lambda tally: None,
    tokenizer: Path = Paths.tokenizer,
) -> Generator[tuple[str, Raw, Cleaned | Dropped]]:
    """Take the records of a folder, or file, to the scratch; yield file, record and what became of it.

    `progress` is told of the tally after every batch.
    """
    paths = files(raw)
    wanted = workers or (1 if size(paths) < SMALL else min(processes.available(), MOST_PROCESSES))
    cleaner = functools.partial(Cleaner, params, tokenizer)
    cleaner()  # bad settings are found here, not in a worker
    checks = [(name, comparison(name, params, kept)) for name in params.steps if name in COMPARING]
    with closing(processes.in_order(cleaner, batches(paths), wanted)) as results:
        for batch, result in results:
            tally.changed += result.changed
            for record, found in zip(batch.records, result.found, strict=True):
                yield batch.name, record, settled(found, checks, kept, tally)
            tally.read += batch.size
            progress(tally)


def files(raw: Path) -> list[tuple[str, Path]]:
    """Names and paths of a folder's dumps, or of one. Raises InputError where there is no folder."""
    if raw.is_file():
        return [(raw.name, raw)]
    if not raw.is_dir():
        raise InputError("no such folder", where=str(raw), hint="run first: stillroom fetch")
    return [(path.relative_to(raw).as_posix(), path) for path in dump_files(raw)]


def batches(paths: Iterable[tuple[str, Path]]) -> Iterator[Batch]:
    """The records of the files, some BATCH bytes at a time."""
    for name, path in paths:
        left = path.stat().st_size
        plain = path.suffix not in COMPRESSED and ending(path) != ".parquet"
        group: list[Raw] = []
        length = 0
        for record in raw_conversations(path):
            group.append(record)
            length += len(record.text)
            if length >= BATCH:
                read = min(length, left) if plain else 0
                yield Batch(name, group, read)
                group, length, left = [], 0, left - read
        yield Batch(name, group, left)


def size(paths: Iterable[tuple[str, Path]]) -> int:
    """Bytes of the files."""
    return sum(path.stat().st_size for _, path in paths)


def megabytes(count: int) -> int:
    """Bytes as whole MB, what has begun counted in."""
    return -(-count // 1_000_000)


@contextmanager
def shown(raw: Path) -> Iterator[Callable[[Tally], None]]:
    """A bar over the bytes of the input, which a tally moves."""
    with track("extract", megabytes(size(files(raw))), "MB") as tracker:

        def progress(tally: Tally) -> None:
            note = f"{tally.records:,} records, {tally.records - tally.dropped:,} kept"
            tracker.advance(megabytes(tally.read) - tracker.done, note)

        yield progress


class Cleaner:
    """What a worker does: records ──▶ cleaned conversations, by the steps that look at one alone."""

    def __init__(self, params: Params, tokenizer: Path = Paths.tokenizer) -> None:
        self.params = params
        self.chain = [(name, step(name, params, tokenizer)) for name in params.steps if name not in COMPARING]
        near = "near_duplicates" in params.steps
        self._bands = likeness(params).bands if near else lambda messages: ()

    def __call__(self, batch: Batch) -> Result:
        """All records of a batch."""
        changed: Counter[str] = Counter()
        return Result([self.cleaned(record, batch.name, changed) for record in batch.records], changed)

    def cleaned(self, record: Raw, name: str, changed: Counter[str]) -> Cleaned | Dropped:
        """One record, taken through the steps."""
        found = conversation_of(record, name, self.params.on_malformed)
        for step_name, before, after in self.effects(found) if isinstance(found, Conversation) else ():
            changed[step_name] += isinstance(after, Conversation) and after is not before
            found = after
        return found if isinstance(found, Dropped) else self.finished(found)

    def effects(self, found: Conversation) -> Iterator[tuple[str, Conversation, Conversation | Dropped]]:
        """(step, before, after) of every step, up to one that drops; unchanged is the same object."""
        if not _has_human_turn(found):
            what = f"{len(found.messages)} turns, none a human's"
            yield "no_human_turn", found, Dropped(found.id, "no_human_turn", what)
            return
        for name, apply in self.chain:
            after = apply(found)
            if isinstance(after, str):
                yield name, found, Dropped(found.id, name, after)
                return
            if not _has_human_turn(after):
                yield name, found, Dropped(found.id, name, "no human turn is left")
                return
            yield name, found, after
            found = after

    def finished(self, clean: Conversation) -> Cleaned | Dropped:
        """What is kept of a clean conversation: its human turns, or all up to the last answer."""
        ending = turns.without_answers if self.params.keep == "human" else turns.without_last_question
        messages = ending(clean.messages)
        human = [m.content for m in messages if m.role == "user"]
        if not human:
            return Dropped(clean.id, "no_answer", "no turn has an answer to keep")
        return Cleaned(
            clean.id,
            orjson.dumps(replace(clean, messages=messages), option=orjson.OPT_APPEND_NEWLINE),
            len(human),
            sum(map(len, human)),
            duplicates.digest(messages),
            self._bands(messages),
        )


def step(name: StepName, params: Params, tokenizer: Path) -> Step:
    """A fresh step of that name, with its settings."""
    roles = ("user", "system") if params.keep == "human" else ("user", "system", "assistant")
    match name:
        case "html_to_markdown":
            return _on_texts(lambda m: markup.html_to_markdown(m.content), roles)
        case "copy_code":
            return _on_texts(lambda m: markup.copy_code(m.content), roles)
        case "page_residue":
            return _on_texts(lambda m: markup.page_residue(m.content, whole=m.role == "user"), roles)
        case "redact":
            emails, secrets = params.redact_emails, params.redact_secrets
            return _on_texts(lambda m: redaction.redact(m.content, emails=emails, secrets=secrets), roles)
        case "empty_turns":
            return _on_messages(turns.cut_at_empty)
        case "alternation":
            return _on_messages(turns.alternating)
        case "boilerplate":
            return _unless(filters.boilerplate(params.boilerplate))
        case "language":
            return _unless(filters.language(params.languages))
        case "length":
            return _unless(length(params, tokenizer))
    raise AssertionError(name)


def comparison(name: str, params: Params, kept: Scratch) -> Check:
    """A fresh comparing step, which remembers in the scratch."""
    match name:
        case "duplicate_ids":
            return duplicates.same_id(kept)
        case "duplicate_turns":
            return duplicates.same_turns(kept)
    return near_duplicates.near(kept, likeness(params))


def likeness(params: Params) -> Likeness:
    """What near-duplicates are, by the settings."""
    return Likeness(params.near_threshold, params.near_ngram, params.near_permutations)


def length(params: Params, tokenizer: Path) -> filters.Filter:
    """The filter of the step of that name. Raises ParamsError where tokens are limited and nothing counts."""
    limited = (params.min_tokens, params.max_tokens) != (None, None)
    count = token_counter(tokenizer / "tokenizer.json") if limited else len
    return filters.length(
        params.min_characters, params.max_characters, params.min_tokens, params.max_tokens, count
    )


def token_counter(path: Path) -> Callable[[str], int]:
    """Counts a text's tokens, without special ones. Raises ParamsError where there is no tokenizer."""
    from tokenizers import Tokenizer

    if not path.is_file():
        hint = "name a tokenizer.json in fetch.sources.tokenizer, then run: stillroom fetch"
        raise ParamsError("extract limits tokens and nothing counts them", where=str(path), hint=hint)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ParamsError(f"no tokenizer ({error})", where=str(path)) from None
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def settled(
    found: Cleaned | Dropped, checks: Iterable[tuple[str, Check]], kept: Scratch, tally: Tally
) -> Cleaned | Dropped:
    """Take a record to the scratch: as kept, where the comparing steps let it pass, or as dropped."""
    tally.records += 1
    if isinstance(found, Cleaned):
        place = kept.write(found.line)
        verdicts = ((name, what) for name, check in checks if (what := check(found, place)))
        name, what = next(verdicts, (None, None))
        if name is None or what is None:
            kept.keep(found, place)
            return found
        found = Dropped(found.id, name, what)
    tally.dropped += 1
    kept.drop(found)
    return found


def sample(kept: Scratch, params: Params) -> None:
    """Draw `params.sample` conversations by the hash of seed and id: more input moves few of them."""
    if params.sample is not None:
        kept.draw(params.sample, lambda identifier: sha256(f"{params.seed}:{identifier}"))


def write(kept: Scratch, path: Path) -> None:
    """Write the kept conversations sorted by id. Raises InputError on a second one with an id."""
    with atomic_write(path) as file:
        last = None
        for identifier, line in kept.lines("id"):
            if identifier == last:
                hint = "list duplicate_ids in extract.steps"
                raise InputError(f"two records have the id {identifier!r}", where=str(path), hint=hint)
            file.write(line)
            last = identifier


def metrics(kept: Scratch, tally: Tally) -> dict[str, Any]:
    """Counts of what came in, what each step changed or dropped, and what is left."""
    conversations, human_turns, characters = kept.totals()
    return {
        "records": tally.records,
        "conversations": conversations,
        "human_turns": human_turns,
        "characters": characters,
        "dropped": kept.reasons(),
        "changed": dict(sorted((+tally.changed).items())),
    }


def summary(found: dict[str, Any]) -> str:
    """`74 records, 46 conversations kept; dropped: 20 malformed, 8 length`, from the metrics."""
    dropped = sorted(found["dropped"].items(), key=lambda item: (-item[1], item[0]))
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped) or "none"
    return f"{found['records']:,} records, {found['conversations']:,} conversations kept; dropped: {reasons}"


def _has_human_turn(conversation: Conversation) -> bool:
    return any(m.role == "user" for m in conversation.messages)


def _on_texts(change: Callable[[Message], str], roles: tuple[str, ...]) -> Step:
    """A step that changes the text of every message of the roles."""

    def changed(message: Message) -> Message:
        if message.role not in roles:
            return message
        text = change(message)
        return message if text == message.content else Message(message.role, text)

    return _on_messages(lambda messages: tuple(map(changed, messages)))


def _on_messages(change: Callable[[turns.Messages], turns.Messages | str]) -> Step:
    """A step that changes the messages, or says why the conversation is dropped."""

    def apply(conversation: Conversation) -> Conversation | str:
        result = change(conversation.messages)
        if isinstance(result, str):
            return result
        return conversation if result == conversation.messages else replace(conversation, messages=result)

    return apply


def _unless(check: filters.Filter) -> Step:
    """A step that drops what the filter has something to say about."""
    return lambda conversation: check(conversation.messages) or conversation
