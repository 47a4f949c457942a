"""Perplexity over whole books, at several context lengths.

data/benchmarks/pg19/*.txt ──▶ windows of each length ──▶ Σ NLL, tokens, bytes and words per book

The same target tokens are scored at every length: all of a book's text, behind one begin token. With
disjoint windows of length L, token i is seen behind i mod L tokens; with `overlap`, windows slide and only
the tokens past the overlap are counted. What is compared between models and tokenizers is perplexity per
UTF-8 byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from stillroom.benchmarks.base import Benchmark, Curve, Measure, Sample, Scores
from stillroom.chat_format import encode_texts
from stillroom.draws import rank
from stillroom.errors import InputError, ModelError
from stillroom.progress import track

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.benchmarks.subject import Subject

Length = Annotated[int, Field(ge=2)]
UNITS = ("byte", "token", "word")
IGNORED = -100
"""the target of what is context only, as torch's cross-entropy leaves it out"""
PROBE = 8
"""tokens on which the head is tried by itself"""
LOGITS = (8 << 20, 256 << 20)
"""bytes of logits at a time: what a CPU's cache holds; what keeps a GPU busy"""


def measure(length: int, unit: str = "byte") -> Measure:
    """Perplexity per byte, token or word with windows of that length."""
    name = f"{unit} perplexity at {length:,} tokens"
    return Measure(f"nll@{length}", name, f"per {unit}", "lower", per=f"{unit}s", exp=True)


def lengths_of(samples: Sequence[Sample]) -> list[int]:
    """The lengths that the samples were scored at, ascending."""
    return sorted({int(key[4:]) for s in samples for key in s.scores if key.startswith("nll@")})


def points(samples: Sequence[Sample]) -> dict[int, tuple[Measure, list[Sample]]]:
    """Byte perplexity at each length."""
    return {length: (measure(length), list(samples)) for length in lengths_of(samples)}


class Pg19(Benchmark):
    """Perplexity over books."""

    name: ClassVar[str] = "pg19"
    title: ClassVar[str] = "PG19 perplexity"
    definition: ClassVar[str] = (
        "exp(Σ NLL / Σ UTF-8 bytes) over books, each text behind one begin token. The same target tokens "
        "are scored at every length, in windows that do not overlap unless `evaluate.pg19.overlap` says "
        "so. The published “normalized perplexity” is defined nowhere; per byte is the reading that fits "
        "its size: definition assumed. Books shorter than the longest window are skipped; lengths beyond a"
        " model's positions are left out."
    )
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve("length", "context length, tokens", "byte perplexity", points),
    )

    lengths: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)] = [
        2048,
        4096,
        8192,
        16384,
        32768,
    ]
    """context lengths, tokens"""
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """part of each window that is context only; 0 gives disjoint windows"""
    characters: Annotated[int | None, Field(ge=1)] = None
    """most characters of a book, from its beginning; null takes all"""
    limit: Annotated[int | None, Field(ge=1)] = None
    """most books, drawn by the seed; null takes all"""

    def run(self, data: Path, subject: Subject) -> list[Sample]:
        """Score every chosen book at every length that the model has positions for."""
        books = self.books(data, subject.seed)
        if not books:
            return []
        generator = subject.generator
        tokenizer = generator.tokenizer
        begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if begin is None:
            raise ModelError("the tokenizer has neither a begin nor an end token", where=str(subject.folder))
        lengths = [length for length in sorted(set(self.lengths)) if length <= generator.positions]
        samples = []
        with track("evaluate pg19", total=len(books) * len(lengths), unit="texts") as progress:
            for book, text in books.items():
                ids = encode_texts(tokenizer, [text])[0]
                if len(ids) < max(self.lengths):
                    note = f"{len(ids):,} tokens, shorter than the longest window"
                    samples.append(Sample(book, book, text[:300], None, (), {}, "skipped", note))
                    continue
                scores: Scores = {"tokens": len(ids), "bytes": len(text.encode()), "words": len(text.split())}
                for length in lengths:
                    if (key := f"{book}@{length}") not in subject.findings:
                        whole = [begin, *ids]
                        nll = score(generator.model, whole, length, self.overlap, subject.batch_tokens)
                        subject.findings.add({key: nll})
                    scores[f"nll@{length}"] = round(subject.findings[key], 4)
                    progress.advance()
                samples.append(Sample(book, book, text[:300], None, (), scores))
        return samples

    def books(self, data: Path, seed: int) -> dict[str, str]:
        """Name and text of the chosen books, sorted by name."""
        if not data.is_dir():
            raise InputError("no such folder", where=str(data), hint="run `stillroom fetch` first")
        files = sorted(data.rglob("*.txt"), key=lambda f: rank(seed, f.relative_to(data).as_posix()))
        chosen = sorted(files[: self.limit])
        return {
            f.relative_to(data).with_suffix("").as_posix(): read_text(f)[: self.characters] for f in chosen
        }

    @classmethod
    def measures(cls, samples: Sequence[Sample]) -> list[Measure]:
        """Byte perplexity, the longest length first."""
        return [measure(length) for length in reversed(lengths_of(samples))]

    @classmethod
    def details(cls, samples: Sequence[Sample]) -> dict[str, Any]:
        """Sums over the books, and the other readings of perplexity at each length."""
        scored = [s for s in samples if s.status == "scored"]
        sums = {f"{unit}s": sum(int(s.scores[f"{unit}s"]) for s in scored) for unit in UNITS}
        readings = {
            f"{unit}_perplexity": {
                str(n): round(measure(n, unit).numbers(scored).value(), 6) for n in lengths_of(scored)
            }
            for unit in UNITS
        }
        return sums | readings


def read_text(file: Path) -> str:
    """A book's text. Raises InputError where it is not UTF-8."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 ({error.reason} at byte {error.start:,})", where=str(file)) from None


def windows(targets: int, length: int, overlap: float) -> Iterator[tuple[int, int, int]]:
    """(start, end, first counted) over the inputs: each target is counted once, the last window may be short.

    >>> list(windows(10, 4, 0))
    [(0, 4, 0), (4, 8, 4), (8, 10, 8)]
    >>> list(windows(8, 4, 0.5))
    [(0, 4, 0), (2, 6, 4), (4, 8, 6)]
    """
    stride = max(1, round(length * (1 - overlap)))
    counted = 0
    while counted < targets:
        end = min(counted + (stride if counted else length), targets)
        yield max(0, end - length) if overlap else counted, end, counted
        counted = end


def score(model: Any, sequence: Sequence[int], length: int, overlap: float, batch_tokens: int) -> float:
    """Σ NLL in nats of sequence[1:], in windows of `length` tokens, batched under `batch_tokens`.

    A batch that the GPU's memory does not hold is run in halves, and so are those after it. Raises ModelError
    where one window is too much.
    """
    import torch

    tokens, spans = torch.tensor(sequence), list(windows(len(sequence) - 1, length, overlap))
    size = max(1, min(batch_tokens // length, len(spans)))
    total, first = 0.0, 0
    with torch.inference_mode():
        project = head(model, tokens[None, :PROBE])
        while first < len(spans):
            found = _fitting_nll(model, project, *window_tensors(tokens, spans[first : first + size], length))
            if found is not None:
                total, first = total + found, first + size
            elif size == 1:
                hint = "leave it out of evaluate.pg19.lengths, or take a GPU with more memory"
                where = model.config.name_or_path
                raise ModelError(f"out of memory: a window of {length:,} tokens", where=where, hint=hint)
            else:
                torch.cuda.empty_cache()
                size = (size + 1) // 2
    return total


def _fitting_nll(model: Any, project: Any, inputs: Tensor, targets: Tensor) -> float | None:
    """`summed_nll`; None where the memory did not last. Its tensors are free once this has returned."""
    import torch

    try:
        return summed_nll(model, project, inputs, targets)
    except torch.OutOfMemoryError:
        return None


def head(model: Any, probe: Tensor) -> Any:
    """The layer that makes logits of hidden states; None where logits are more than that (capped, scaled).

    probe: int64 [1, tokens], on which both ways must give the same to the bit.
    """
    import torch

    layer, probe = model.get_output_embeddings(), probe.to(model.device)
    if layer is None or model.base_model is model:
        return None
    apart = layer(model.base_model(input_ids=probe, use_cache=False).last_hidden_state)
    return layer if torch.equal(apart, model(input_ids=probe, use_cache=False).logits) else None


def summed_nll(model: Any, project: Any, inputs: Tensor, targets: Tensor) -> float:
    """Σ NLL of the targets that are not −100; LOGITS bytes of logits exist at a time.

    inputs, targets: int64 [windows, length].
    project: what `head` found; without it, all logits exist at once.
    """
    import torch

    inputs, targets = inputs.to(model.device), targets.to(model.device).flatten()
    if project is None:
        states, project = model(input_ids=inputs, use_cache=False).logits.flatten(0, 1), torch.nn.Identity()
    else:
        counted = targets != IGNORED
        hidden = model.base_model(input_ids=inputs, use_cache=False).last_hidden_state
        states, targets = hidden.flatten(0, 1)[counted], targets[counted]
    vocabulary = model.get_input_embeddings().weight.shape[0]
    rows = max(1, LOGITS[model.device.type != "cpu"] // (4 * vocabulary))
    total = 0.0
    for some, target in zip(torch.split(states, rows), torch.split(targets, rows), strict=True):
        nll = torch.nn.functional.cross_entropy(project(some).float(), target, reduction="none")
        total += float(nll.double().sum())  # no tensor stays, between which the heap could not shrink
    return total


def window_tensors(
    tokens: Tensor, spans: Sequence[tuple[int, int, int]], length: int
) -> tuple[Tensor, Tensor]:
    """Inputs and targets, int64 [windows, length]; padded on the right, where no token looks."""
    import torch

    inputs = torch.zeros(len(spans), length, dtype=torch.int64)
    targets = torch.full((len(spans), length), IGNORED, dtype=torch.int64)
    for row, (start, end, counted) in enumerate(spans):
        inputs[row, : end - start] = tokens[start:end]
        targets[row, counted - start : end - start] = tokens[counted + 1 : end + 1]
    return inputs, targets
