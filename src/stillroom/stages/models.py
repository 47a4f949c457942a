"""The base student and the teacher.

hub, folder, or texts of fixtures ──▶ models ──▶ models/base, models/teacher

    stillroom models

A model comes from the hub at a pinned commit, from a folder below `root`, or (tiny) is built here: a
tokenizer from the texts of `root`, a base with random weights, a teacher that learns the fixtures' answers.
An adapter that training goes on with comes in the same ways, into `models/base/adapter`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from stillroom import chat_format
from stillroom.artifacts import atomic_directory, read_json, read_jsonl
from stillroom.chat_format import ChatFormat
from stillroom.errors import InputError, ModelError, ParamsError
from stillroom.params import Block, Settings
from stillroom.records import Message
from stillroom.sources.download import hub_folder
from stillroom.teacher import curriculum
from stillroom.training.tiny_recipe import TinyModel, TinyTeacher

SMALL_FILES = ["*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "LICENSE*", "USE_POLICY*", "NOTICE*"]
"""of a hub repository: settings, tokenizer, terms"""
ADAPTER_FILES = ["adapter_config.json", "adapter_model.safetensors"]
"""of a peft folder"""
REMOTE = "The teacher answers over the network (endpoint.base_url): no model is kept here.\n"
"""README of an empty teacher folder"""


class Source(Settings):
    """Where a model comes from: exactly one of `hub`, `path` and `tiny`."""

    hub: str | None = Field(default=None, pattern="^[^/ ]+/[^/ ]+$")
    """hub repository, owner/name; needs `revision`"""
    revision: str | None = Field(default=None, pattern="^[0-9a-f]{40}$")
    """full commit of the repository: a branch would change under the same params"""
    path: str | None = None
    """Hugging Face folder, relative to models.root"""
    tiny: TinyModel | None = None
    """sizes of a model that is built here"""

    @model_validator(mode="after")
    def _complete(self) -> Source:
        if sum(place is not None for place in (self.hub, self.path, self.tiny)) != 1:
            raise ValueError("a model needs exactly one of hub, path, tiny")
        if (self.hub is None) != (self.revision is None):
            raise ValueError("hub and revision (40 hex digits) go together")
        return self


class TeacherSource(Source):
    """Where the teacher comes from: exactly one of `hub`, `path` and `tiny`."""

    tiny: TinyTeacher | None = None
    """sizes of a teacher that is built here, and what it learns"""


class Params(Block):
    """Settings of `models`."""

    common_keys = ("seed", "chat_format")

    seed: int = 42
    """of the random weights, and of the order in which the tiny teacher learns"""
    chat_format: str = "inst"
    """of what the tiny teacher learns, and of its chat template"""
    root: str = "data/fixtures"
    """folder that DVC watches: paths of models, and texts for the tiny ones"""
    base: Source = Source(tiny=TinyModel())
    """the student before training"""
    adapter: Source | None = None
    """a LoRA adapter of the base (peft folder, by hub or path) that training goes on with"""
    teacher: TeacherSource | None = TeacherSource(tiny=TinyTeacher())
    """the model of the embedded teacher; null where common.teacher is an endpoint"""

    @model_validator(mode="after")
    def _adapter_is_given(self) -> Params:
        if self.adapter is not None and self.adapter.tiny is not None:
            raise ValueError("adapter: one of hub and path")
        return self


@dataclass(frozen=True)
class Paths:
    """Where dvc.yaml says that things lie."""

    base: Path = Path("models/base")
    teacher: Path = Path("models/teacher")


def run(paths: Paths, params: Params) -> None:
    """Prepare both folders.

    Raises DownloadError where the hub cannot be reached, ModelError where a folder holds no model, InputError
    where the tiny teacher's lessons do not fit its documents.
    """
    root, chat = Path(params.root), chat_format.get(params.chat_format)
    learned = lessons(root, params.teacher.tiny) if params.teacher and params.teacher.tiny else []

    def build(sizes: TinyModel, folder: Path) -> None:
        build_tiny(folder, sizes, learned, root=root, chat=chat, seed=params.seed)

    with atomic_directory(paths.base) as folder:
        prepare(folder, params.base, root, "models.base", build)
        if params.adapter is not None:
            prepare_adapter(folder / "adapter", params.adapter, root)
    with atomic_directory(paths.teacher) as folder:
        if params.teacher is None:
            (folder / "README.md").write_text(REMOTE, encoding="utf-8")
        else:
            prepare(folder, params.teacher, root, "models.teacher", build)


def prepare(
    folder: Path, source: Source, root: Path, key: str, build: Callable[[TinyModel, Path], None]
) -> None:
    """Fill a folder from its source; `key` is its place in params.yaml, for errors."""
    if source.tiny is not None:
        build(source.tiny, folder)
    elif source.path is not None:
        given = local_folder(source.path, root, key)
        check(given)
        shutil.copytree(given, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
    else:
        assert source.hub is not None
        assert source.revision is not None
        link_files(*hub_snapshot(source.hub, source.revision, root, key), folder)
        check(folder)


def prepare_adapter(folder: Path, source: Source, root: Path) -> None:
    """Fill a folder with an adapter's config and weights, as peft writes them. Raises as `run` does."""
    key = "models.adapter"
    if source.path is not None:
        given = local_folder(source.path, root, key)
    else:
        assert source.hub is not None
        assert source.revision is not None
        hint = f"without a network: put its folder below {root} and name it by {key}.path"
        given = hub_folder(source.hub, source.revision, "model", ADAPTER_FILES, hint)
    folder.mkdir()
    for name in ADAPTER_FILES:
        if not (given / name).is_file():
            raise ModelError(f"no {name}: not a peft folder", where=str(given))
        shutil.copyfile(given / name, folder / name)


def local_folder(path: str, root: Path, key: str) -> Path:
    """A folder below `root`. Raises ParamsError where it is not there; `key` names the setting."""
    if not (root / path).is_dir():
        raise ParamsError(
            f"no folder {root / path}", where=f"{key}.path", hint="it is relative to models.root"
        )
    return root / path


def hub_snapshot(repository: str, revision: str, root: Path, key: str) -> tuple[Path, list[str]]:
    """The folder of a hub model in the hub's own cache, and which of its files are wanted.

    A download that was cut off goes on. Weights are taken as safetensors, or as .bin where there are none.
    Raises DownloadError.
    """
    name = repository.rpartition("/")[2]
    hint = (
        f"without a network: put the folder of {repository} at {root / name} "
        f"and replace `hub` and `revision` under {key} by `path: {name}`"
    )
    files = [*SMALL_FILES, "model*.safetensors"]
    found = hub_folder(repository, revision, "model", files, hint)
    if not any(found.glob("model*.safetensors")):
        files = [*SMALL_FILES, "pytorch_model*.bin"]
        found = hub_folder(repository, revision, "model", files, hint)
    return found, files


def link_files(source: Path, names: Sequence[str], folder: Path) -> None:
    """Fill `folder` with the files of `source` that match, without copying where the file system allows.

    Only the hub's cache is taken this way: nobody edits its files in place. Subfolders hold other formats.
    """
    for path in sorted(source.iterdir()):
        if path.is_file() and any(path.match(name) for name in names):
            try:
                os.link(path.resolve(), folder / path.name)
            except OSError:
                shutil.copyfile(path, folder / path.name)


def check(folder: Path) -> None:
    """Raise ModelError where something is missing that a model folder must have."""
    config = folder / "config.json"
    if not config.is_file() or not isinstance(read_json(config), dict):
        raise ModelError("no config.json: not a Hugging Face model folder", where=str(folder))
    for name in weights(folder):
        if not (folder / name).is_file():
            raise ModelError(f"the weights' file {name} is missing", where=str(folder))
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError("no tokenizer (tokenizer.json, tokenizer.model or vocab.json)", where=str(folder))


def weights(folder: Path) -> list[str]:
    """The files that hold the weights, as the index says where there is one."""
    for stem in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{stem}.index.json"
        if index.is_file():
            return sorted(set(read_json(index)["weight_map"].values()))
        if (folder / stem).is_file():
            return [stem]
    hint = "model.safetensors, or its shards with model.safetensors.index.json"
    raise ModelError("no weights", where=str(folder), hint=hint)


def lessons(root: Path, recipe: TinyTeacher) -> list[curriculum.Messages]:
    """All conversations that the tiny teacher learns."""
    learned = curriculum.conversations(root / recipe.conversations)
    if recipe.lessons is not None:
        learned += curriculum.lesson_conversations(
            curriculum.lessons(root / recipe.lessons),
            root / recipe.documents,
            size=recipe.chunk_size,
            overlap=recipe.chunk_overlap,
            questions=recipe.questions_per_chunk,
        )
    return learned


def build_tiny(
    folder: Path,
    sizes: TinyModel,
    learned: Sequence[Sequence[Message]],
    *,
    root: Path,
    chat: ChatFormat,
    seed: int,
) -> None:
    """Build a model of these sizes; a TinyTeacher learns the conversations, a base only its tokenizer."""
    from transformers.utils.logging import disable_progress_bar

    from stillroom.training import tiny

    disable_progress_bar()
    texts = [*corpus(root, sizes.texts), *(message.content for messages in learned for message in messages)]
    tokenizer = tiny.build_tokenizer(texts, sizes.vocabulary, chat)
    model = tiny.build_model(sizes, tokenizer, seed)
    if isinstance(sizes, TinyTeacher):
        rows = chat_format.encode(chat, tokenizer, learned)
        tiny.teach(model, [row for row in rows if len(row.ids) <= sizes.longest], sizes, seed)
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # the writer keeps it to its owner
    tokenizer.save_pretrained(folder)


def corpus(root: Path, names: Sequence[str] = ()) -> Iterator[str]:
    """The texts of a folder, or of the named files and folders in it, files by name.

    They are strings of JSON, and whole texts, Markdown and HTML. Raises InputError where there is none.
    """
    found = False
    for path in sorted({path for name in names or [""] for path in files_of(root / name)}):
        for text in texts(path):
            found = True
            yield text
    if not found:
        raise InputError("no texts to build a tokenizer from", where=str(root))


def files_of(path: Path) -> Iterator[Path]:
    """A file, or every file below a folder. Raises InputError where there is neither."""
    if path.is_dir():
        yield from (p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    elif path.is_file():
        yield path
    else:
        raise InputError("no such file or folder", where=str(path), hint="it is named in models.*.tiny.texts")


def texts(path: Path) -> Iterator[str]:
    """The texts of one file; none where it is of another kind."""
    if path.suffix == ".jsonl":
        for _, row in read_jsonl(path):
            yield from strings(row)
    elif path.suffix == ".json":
        yield from strings(read_json(path))
    elif path.suffix in (".txt", ".md", ".html", ".rst"):
        yield path.read_text(encoding="utf-8", errors="replace")


def strings(value: Any) -> Iterator[str]:
    """The strings inside a JSON value, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)
