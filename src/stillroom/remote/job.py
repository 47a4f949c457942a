"""One training job at a service, from upload to result: paid for once, whatever happens to this process.

mixture ──▶ examples ──▶ upload ──▶ job ──▶ its events ──▶ models/checkpoint/endpoint.json, metrics, curve

What a job is made of (address, request, data) names its record in the work folder and its uploaded files. A
run after a kill goes on with the job on record. A kill may also fall between the creation of a job and the
record, or take the record with the machine: so before a job is created, those at the service are searched for
one that trains on a file of that name.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from stillroom import chat_format
from stillroom.artifacts import atomic_directory, atomic_write, canonical_json, read_json, sha256, write_json
from stillroom.endpoint_model import EndpointModel
from stillroom.errors import BudgetError, EndpointError, InputError, ParamsError, TrainingError
from stillroom.params import Endpoint
from stillroom.progress import short
from stillroom.records import Conversation
from stillroom.remote.examples import Examples, Form, as_messages, write
from stillroom.remote.openai_dialect import OpenAI
from stillroom.remote.service import Event, Gone, Job, Service, Unsure
from stillroom.remote.together_dialect import Together
from stillroom.teacher.limits import backoff

if TYPE_CHECKING:
    from stillroom.stages.train import Params, Paths

SERVICES: dict[str, type[Service]] = {"openai": OpenAI, "together": Together}
COLUMNS = ("step", "tokens", "loss", "validation_loss", "lr", "grad_norm")
"""of the curve, as a local run writes it; what a service does not tell stays empty"""
MOST_SHOWN = 20
"""events of one look: a run that comes back to an old job does not repeat them all"""
MILLION = 1_000_000


@dataclass
class Record:
    """What is at the service, on disk before anybody relies on it."""

    path: Path
    training_file: str | None = None
    validation_file: str | None = None
    job: str | None = None

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record of a path; an empty one where there is none."""
        return cls(path, **read_json(path)) if path.exists() else cls(path)

    def note(self, **known: str | None) -> None:
        """Set fields, on disk when this returns."""
        for name, value in known.items():
            setattr(self, name, value)
        write_json(self.path, {name: value for name, value in asdict(self).items() if name != "path"})


@dataclass(frozen=True)
class Order:
    """A job as it is wanted: who is asked, with which files."""

    service: Service
    train: Examples
    validation: Examples | None
    record: Record

    @property
    def made_of(self) -> dict[str, Any]:
        """All that decides the outcome, by content."""
        return made_of(self.service, self.train, self.validation)

    @property
    def name(self) -> str:
        """Of its files at the service, less what they hold."""
        return f"stillroom-{self.record.path.stem}"


def run(paths: Paths, params: Params) -> None:
    """Train at the service, or go on waiting for it, and publish the result.

    Raises TrainingError where the job failed, EndpointError where the service refuses, InputError where the
    mixture cannot be trained on, BudgetError before a job that could exceed endpoint.max_cost.
    """
    with ordered(paths, params) as order:
        if order.record.job is None:
            announce(order, params.endpoint)
            submit(order, params.endpoint.max_attempts)
        job, events = follow(order, params.endpoint.max_attempts)
        publish(order, job, events, paths)


def cancel(paths: Paths, params: Params) -> None:
    """End the job of these params and this data. Raises TrainingError where there is none."""
    with ordered(paths, params) as order:
        found = order.record.job or next((job.id for job in _existing(order) if job.state == "open"), None)
        if found is None:
            raise TrainingError("there is no job to cancel", where=order.service.address)
        order.service.cancel(found)
        order.record.note(job=None)
        _say(f"job {found} is cancelled")


@contextmanager
def ordered(paths: Paths, params: Params) -> Iterator[Order]:
    """Write and check the files; yield the order, which is this process's alone as long as the block runs."""
    service = SERVICES[params.api.dialect](params.api, params.recipe, params.endpoint)
    work = paths.work / "remote"
    work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work / "lock", timeout=0):
            train, validation = _examples(paths, params, service, work)
            identity = sha256(canonical_json(made_of(service, train, validation)))
            yield Order(service, train, validation, Record.read(work / f"{identity[:16]}.json"))
            for file in work.glob("*.jsonl"):
                file.unlink()
    except Timeout:
        raise TrainingError("another run waits for this job", where=str(work)) from None


def made_of(service: Service, train: Examples, validation: Examples | None) -> dict[str, Any]:
    """Address, request and data of a job: equal ones are one job."""
    data = {"train": train.sha256, "validation": validation.sha256 if validation else None}
    return {"address": service.address, "settings": service.request(), "data": data}


def _examples(paths: Paths, params: Params, service: Service, work: Path) -> tuple[Examples, Examples | None]:
    """Both files as the service takes them. Raises InputError where it would not."""
    form = as_messages if params.api.format == "messages" else _as_text(paths, params)
    train = write(paths.mixture / "train.jsonl", work / "train.jsonl", form)
    validation = write(paths.mixture / "validation.jsonl", work / "validation.jsonl", form)
    where = str(paths.mixture / "train.jsonl")
    if train.records < service.fewest_records:
        what = f"{train.records:,} records, the service takes {service.fewest_records:,} or more"
        raise InputError(what, where=where, hint="see the stage `mix`")
    for examples in (train, validation):
        if examples.bytes > service.most_bytes:
            what = f"{examples.bytes:,} bytes, the service takes {service.most_bytes:,} in a file"
            raise InputError(what, where=where, hint="lower mix.total or mix.most")
    return train, validation if validation.records else None


def _as_text(paths: Paths, params: Params) -> Form:
    """The form `text`: the one chat format, as `distill` writes instructions.jsonl."""
    chat = chat_format.get(params.chat_format)
    if params.chat_format == "tokenizer":
        chat = chat.bound(chat_format.load_tokenizer(paths.base))

    def form(record: Conversation) -> dict[str, Any]:
        return {"text": chat.text(record.messages)}

    return form


def announce(order: Order, endpoint: Endpoint) -> None:
    """Say what goes up and what it may cost. Raises BudgetError where that exceeds endpoint.max_cost."""
    train, asked = order.train, order.service.settings
    low, high = train.tokens
    held_out = f" and {order.validation.records:,} for validation" if order.validation else ""
    passes = f", {asked.n_epochs} epochs" if asked.n_epochs else ""
    size = f"{short(train.bytes)} bytes, {short(low)} to {short(high)} tokens"
    _say(f"{train.records:,} records{held_out}, {size}{passes}")
    _say(f"they go to {order.service.address}, to train {asked.model}")
    if asked.price is not None and asked.n_epochs is not None:
        per_token = asked.price * asked.n_epochs / MILLION
        _say(f"estimated cost {low * per_token:,.2f} to {high * per_token:,.2f}")
        if endpoint.max_cost is not None and high * per_token > endpoint.max_cost:
            raise BudgetError(
                f"the job could cost {high * per_token:,.2f}, max_cost is {endpoint.max_cost:g}",
                where="params.yaml: endpoint.max_cost",
                hint="nothing was uploaded; raise it, or lower mix.total or train.api.n_epochs",
            )
    elif endpoint.max_cost is not None:
        what = "endpoint.max_cost needs price and n_epochs here"
        raise ParamsError(what, where="params.yaml: train.api")


def submit(order: Order, tries: int) -> None:
    """Upload what is not there, find or create the job, and note it."""
    record = order.record
    for side, examples in (("train", order.train), ("validation", order.validation)):
        field = "training_file" if side == "train" else "validation_file"
        if examples is not None and getattr(record, field) is None:
            record.note(**{field: _uploaded(order, examples, side)})
    record.note(job=_created(order, tries).id)


def _uploaded(order: Order, examples: Examples, side: str) -> str:
    """Id of a file at the service: of an earlier upload, or of a new one."""
    name = f"{order.name}-{side}.jsonl"
    found = order.service.files(name, examples.bytes)
    return found[0] if found else order.service.upload(examples.path, name)


def _created(order: Order, tries: int) -> Job:
    """The job: one that is there, or a new one.

    Where no answer says whether a request made a job, the next try begins with a look.
    """
    record = order.record
    assert record.training_file is not None
    for attempt in range(1, tries + 1):
        for job in _existing(order):
            if job.state in ("open", "succeeded"):
                return job
        try:
            return order.service.create(record.training_file, record.validation_file)
        except Unsure as error:
            if attempt == tries:
                raise
            time.sleep(backoff(attempt) if error.wait is None else error.wait)
        except EndpointError:
            record.note(training_file=None, validation_file=None)  # it may be they that are gone
            raise
    raise AssertionError("unreachable")


def _existing(order: Order) -> Iterator[Job]:
    """The jobs at the service that train on this order's file."""
    files = set(order.service.files(f"{order.name}-train.jsonl", order.train.bytes))
    files |= {order.record.training_file} if order.record.training_file else set()
    return (job for job in order.service.jobs() if job.training_file in files) if files else iter(())


def follow(order: Order, patience: int) -> tuple[Job, list[Event]]:
    """Wait for the job, showing its events; return it with all of them. Raises TrainingError where it fails.

    patience: looks in a row that may stay without an answer.
    """
    id = order.record.job
    assert id is not None
    _say(f"job {id} at {order.service.address}; Ctrl-C leaves it running")
    try:
        job, events = _watch(order, id, patience)
    except KeyboardInterrupt:
        _say(f"job {id} goes on. To follow it: stillroom train. To end it: stillroom train --cancel")
        raise
    except Gone as error:
        error.hint = f"if job {id} was deleted, remove {order.record.path} to train anew"
        raise
    if job.state != "succeeded" or not job.model:
        order.record.note(job=None)
        words = job.error or next((e.message for e in reversed(events) if e.level == "error"), "")
        what = f"job {id} ended as {job.status}: {words or 'no reason given'}"
        raise TrainingError(what, where=order.service.address, hint="run again to create a new job")
    return job, events


def _watch(order: Order, id: str, patience: int) -> tuple[Job, list[Event]]:
    """Look at the job until it has ended."""
    events: list[Event] = []
    known: set[str] = set()
    status, failures = "", 0
    while True:
        try:
            job = order.service.job(id)
            new = order.service.events(id, known)
            failures = 0
        except Unsure as error:
            failures += 1
            if failures == patience:
                raise
            _say(f"{error.what}; looking again")
            time.sleep(order.service.settings.poll_seconds)
            continue
        events += new
        known |= {event.key for event in new}
        if earlier := new[:-MOST_SHOWN]:
            _say(f"({len(earlier):,} events before)")
        for event in new[-MOST_SHOWN:]:
            _say(event.message if event.level == "info" else f"{event.level}: {event.message}")
        if job.status != status:
            _say(f"job {id}: {(status := job.status)}")
        if job.state != "open":
            return job, events
        time.sleep(order.service.settings.poll_seconds)


def publish(order: Order, job: Job, events: list[Event], paths: Paths) -> None:
    """Give the result its names: checkpoint, metrics, curve."""
    asked, rows = order.service.settings, curve(events)
    last = {name: next((r[name] for r in reversed(rows) if name in r), None) for name in COLUMNS}
    metrics = {
        "step": last["step"],
        "epochs": asked.n_epochs,
        "tokens": job.tokens,
        "records": order.train.records,
        "validation_records": order.validation.records if order.validation else 0,
        "loss": last["loss"],
        "validation_loss": last["validation_loss"],
    }
    assert job.model is not None
    model = EndpointModel(
        base_url=order.service.address,
        api_key_env=order.service.key_variable,
        model=job.model,
        api="chat" if asked.format == "messages" else "completions",
        trained={"job": job.id, **{k: v for k, v in order.made_of.items() if k != "address"}},
    )
    write_json(paths.metrics, metrics)
    with atomic_write(paths.curve) as file:
        lines = [",".join(str(row.get(name, "")) for name in COLUMNS) for row in rows]
        file.write("".join(f"{line}\n" for line in (",".join(COLUMNS), *lines)).encode())
    with atomic_directory(paths.checkpoint) as folder:
        model.write(folder)
    _say(f"trained: {job.model}")


def curve(events: list[Event]) -> list[dict[str, float]]:
    """A row per step, in order, of all that was measured at it."""
    rows: dict[float, dict[str, float]] = {}
    for event in events:
        if "step" in event.figures:
            rows.setdefault(event.figures["step"], {}).update(event.figures)
    return [rows[step] for step in sorted(rows)]


def _say(line: str) -> None:
    print(f"train: {line}", file=sys.stderr, flush=True)
