"""Together's fine-tuning API.

POST /files/upload, POST /fine-tunes, GET /fine-tunes/ID and …/events and …/metrics, POST …/cancel
Source: https://docs.together.ai/reference/post-fine-tunes
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stillroom.errors import ParamsError
from stillroom.remote.service import Event, Gone, Job, Service, Values

JOBS = "/fine-tunes"
STATES = {
    "completed": "succeeded",
    "error": "failed",
    "user_error": "failed",
    "cancelled": "cancelled",
    "cancel_requested": "cancelled",
}
"""statuses that a job ends with; all others are steps on the way"""
STEP = "train/global_step"
FIGURES = {
    "train/loss": "loss",
    "train/learning_rate": "lr",
    "train/grad_norm": "grad_norm",
    "eval/loss": "validation_loss",
}


class Together(Service):
    """Files of at most 100 GB, as the vendor says."""

    most_bytes = 100 * 10**9
    fewest_records = 1

    def request(self) -> Values:
        """What is trained comes from `train.adapter` and `train.lora`; what is null is left out."""
        asked = self.settings
        body = {
            "model": asked.model,
            "n_epochs": asked.n_epochs,
            "batch_size": asked.batch_size,
            "learning_rate": asked.learning_rate,
            "suffix": asked.suffix,
            "training_type": self._training_type(),
        }
        return {key: value for key, value in body.items() if value is not None} | asked.extra

    def upload(self, file: Path, name: str) -> str:
        """POST /files/upload."""
        fields = {"purpose": "fine-tune", "file_name": name, "file_type": "jsonl"}
        return self.post_file("/files/upload", file, name, **fields)

    def files(self, name: str, size: int) -> list[str]:
        """GET /files, by name and size."""
        found = self.pages("/files")
        return [str(f.get("id")) for f in found if f.get("filename") == name and f.get("bytes") == size]

    def create(self, training_file: str, validation_file: str | None) -> Job:
        """POST /fine-tunes; with a validation file, it is evaluated once an epoch."""
        body: Values = {"training_file": training_file}
        if validation_file:
            body |= {"validation_file": validation_file, "n_evals": self.settings.n_epochs or 1}
        return _job(self.post_once(JOBS, body | self.request()))

    def jobs(self) -> Iterator[Job]:
        """GET /fine-tunes."""
        found = sorted(self.pages(JOBS), key=lambda value: str(value.get("created_at")), reverse=True)
        return map(_job, found)

    def job(self, id: str) -> Job:
        """GET /fine-tunes/ID."""
        return _job(self.get_one(f"{JOBS}/{id}"))

    def events(self, id: str, known: set[str]) -> list[Event]:
        """GET …/events, and …/metrics where the service has it."""
        told = self.get(f"{JOBS}/{id}/events").get("data") or []
        found = [_event(value) for value in sorted(told, key=lambda value: str(value.get("created_at")))]
        return [event for event in (*found, *self._metrics(id)) if event.key not in known]

    def cancel(self, id: str) -> None:
        """POST …/cancel."""
        self.post(f"{JOBS}/{id}/cancel")

    def _metrics(self, id: str) -> Iterator[Event]:
        """What was measured: training and validation losses of one step come apart."""
        try:
            rows = self.get(f"{JOBS}/{id}/metrics").get("metrics") or []
        except Gone:
            return
        for row in rows:
            figures = {name: row[key] for key, name in FIGURES.items() if row.get(key) is not None}
            if figures and row.get(STEP) is not None:
                step = int(row[STEP])
                words = ", ".join(f"{name} {value:g}" for name, value in figures.items())
                yield Event(f"{step} {words}", f"step {step:,}: {words}", figures={"step": step, **figures})

    def _training_type(self) -> dict[str, Any]:
        """Every weight, or an adapter."""
        lora = self.recipe.lora
        if self.recipe.adapter == "qlora":
            hint = "lora or none"
            raise ParamsError("the service has no qlora", where="params.yaml: train.adapter", hint=hint)
        if self.recipe.adapter == "none":
            return {"type": "Full"}
        targets = lora.targets if isinstance(lora.targets, str) else ",".join(lora.targets)
        return {
            "type": "Lora",
            "lora_r": lora.r,
            "lora_alpha": int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,
            "lora_dropout": lora.dropout,
            "lora_trainable_modules": targets,
        }


def _event(value: Values) -> Event:
    message, level = str(value.get("message") or ""), str(value.get("level") or "info").lower()
    key = value.get("hash") or f"{value.get('created_at')} {value.get('type')} {message}"
    return Event(str(key), message, level)


def _job(value: Values) -> Job:
    status = str(value.get("status"))
    return Job(
        id=str(value.get("id")),
        status=status,
        state=STATES.get(status, "open"),  # type: ignore[arg-type]  # one of the literals
        training_file=str(value.get("training_file")),
        model=value.get("model_output_name") or value.get("output_name"),
        tokens=value.get("token_count"),
    )
