"""OpenAI's fine-tuning API, and those who speak it.

POST /files, POST /fine_tuning/jobs, GET /fine_tuning/jobs/ID and …/events, POST …/cancel
Source: https://platform.openai.com/docs/api-reference/fine-tuning
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stillroom.remote.service import PAGE, Event, Job, Service, Values

JOBS = "/fine_tuning/jobs"
STATES = {"succeeded": "succeeded", "failed": "failed", "cancelled": "cancelled"}
"""statuses that a job ends with; all others are steps on the way"""
FIGURES = {"loss": ("train_loss",), "validation_loss": ("full_valid_loss", "valid_loss")}
"""of an event's data: the whole validation set's loss before that of a batch"""


class OpenAI(Service):
    """Files of at most 512 MB and ten records at least, as the vendor says."""

    most_bytes = 512 << 20
    fewest_records = 10

    def request(self) -> Values:
        """Hyperparameters that are null are left out: the service chooses."""
        asked = self.settings
        hyperparameters = {
            "n_epochs": asked.n_epochs,
            "batch_size": asked.batch_size,
            "learning_rate_multiplier": asked.learning_rate_multiplier,
        }
        body = {
            "model": asked.model,
            "hyperparameters": {key: value for key, value in hyperparameters.items() if value is not None},
            "seed": self.recipe.seed,
            "suffix": asked.suffix,
        }
        return {key: value for key, value in body.items() if value is not None} | asked.extra

    def upload(self, file: Path, name: str) -> str:
        """POST /files with the purpose fine-tune."""
        return self.post_file("/files", file, name, purpose="fine-tune")

    def files(self, name: str, size: int) -> list[str]:
        """GET /files, by name and size."""
        found = self.pages("/files", purpose="fine-tune")
        return [str(f.get("id")) for f in found if f.get("filename") == name and f.get("bytes") == size]

    def create(self, training_file: str, validation_file: str | None) -> Job:
        """POST /fine_tuning/jobs."""
        files = {"training_file": training_file, "validation_file": validation_file}
        body = {**self.request(), **{key: value for key, value in files.items() if value}}
        return _job(self.post_once(JOBS, body))

    def jobs(self) -> Iterator[Job]:
        """GET /fine_tuning/jobs."""
        return map(_job, self.pages(JOBS, limit=PAGE))

    def job(self, id: str) -> Job:
        """GET /fine_tuning/jobs/ID."""
        return _job(self.get_one(f"{JOBS}/{id}"))

    def events(self, id: str, known: set[str]) -> list[Event]:
        """GET …/events, the newest first: pages are turned until a known one comes."""
        new: list[Event] = []
        for value in self.pages(f"{JOBS}/{id}/events", limit=PAGE):
            event = _event(value)
            if event.key in known:
                break
            new.append(event)
        return new[::-1]

    def cancel(self, id: str) -> None:
        """POST …/cancel."""
        self.post(f"{JOBS}/{id}/cancel")


def _event(value: Values) -> Event:
    message, level = str(value.get("message") or ""), str(value.get("level") or "info")
    return Event(str(value.get("id")), message, level, _figures(value.get("data")))


def _job(value: Values) -> Job:
    error = value.get("error") or {}
    status = str(value.get("status"))
    return Job(
        id=str(value.get("id")),
        status=status,
        state=STATES.get(status, "open"),  # type: ignore[arg-type]  # one of the literals
        training_file=str(value.get("training_file")),
        model=value.get("fine_tuned_model"),
        tokens=value.get("trained_tokens"),
        error=str(error.get("message") or error.get("code") or ""),
    )


def _figures(data: Any) -> Mapping[str, float]:
    """The figures of an event's data, by this project's names."""
    if not isinstance(data, dict) or not isinstance(data.get("step"), int | float):
        return {}
    told = ((name, [data[k] for k in keys if data.get(k) is not None]) for name, keys in FIGURES.items())
    return {"step": int(data["step"]), **{name: values[0] for name, values in told if values}}
