"""Whole params files: validate, describe, complete, compare.

recipes/NAME.yaml ──▶ `stillroom recipe use NAME` ──▶ params.yaml

The schema of a params file is `common:`, `endpoint:` and a block per stage, declared by the stage's module. A
recipe spells out every key, each with the comment that its field's docstring gives: `stillroom recipe
complete` writes a file that way.
"""

from __future__ import annotations

import difflib
import importlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from stillroom import params
from stillroom.artifacts import atomic_write
from stillroom.errors import ParamsError
from stillroom.stages import STAGES

RECIPES = Path("recipes")
SCHEMA = RECIPES / "schema.json"
COMMENT_COLUMN = 44
BLOCKS = (*params.SHARED_BLOCKS, *STAGES)


def block_of(name: str) -> type[params.Settings]:
    """The settings class of a top-level key: `common`, `endpoint` or a stage."""
    if name in params.SHARED_BLOCKS:
        return params.SHARED_BLOCKS[name]
    block: type[params.Settings] = importlib.import_module(f"stillroom.stages.{name}").Params
    return block


def own_fields(block: type[BaseModel]) -> dict[str, Any]:
    """A block's fields without those that it reads from `common:` and `endpoint:`."""
    elsewhere = params.borrowed(block)
    return {name: field for name, field in block.model_fields.items() if name not in elsewhere}


def check(path: Path) -> dict[str, params.Settings]:
    """Validate a whole params file. Raises ParamsError naming file, line, key and the nearest known key."""
    document = params.read(path)
    params.known_blocks(document, BLOCKS, path)
    return {name: params.block_in(document, name, block_of(name), path) for name in BLOCKS}


def names() -> list[str]:
    """The recipes of this checkout, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def path_of(name: str) -> Path:
    """A recipe's file by name, or any params file by path. Raises ParamsError with the known names."""
    for path in (RECIPES / f"{name}.yaml", Path(name)):
        if path.is_file():
            return path
    near = difflib.get_close_matches(name, names(), 1, 0.4)
    hint = f"did you mean `{near[0]}`?" if near else f"recipes: {', '.join(names())}"
    raise ParamsError(f"no recipe {name!r}", where=str(RECIPES), hint=hint)


def description(path: Path) -> str:
    """The header comment of a params file, without the line for editors."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if "yaml-language-server" not in line:
            lines.append(line.removeprefix("#").strip())
    return "\n".join(lines).strip()


def flat(path: Path) -> dict[str, Any]:
    """Every setting in force as `block.key: value`, defaults included."""
    blocks = check(path)
    return {
        key: value
        for name, block in blocks.items()
        for key, value in _leaves(block.model_dump(include=set(own_fields(type(block)))), name)
    }


def _leaves(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{at}.{key}")
    else:
        yield at, value


def differences(first: Path, second: Path) -> list[tuple[str, Any, Any]]:
    """(key, value in first, value in second) of every setting that differs; None where it is absent."""
    a, b = flat(first), flat(second)
    return [(k, a.get(k), b.get(k)) for k in dict.fromkeys([*a, *b]) if a.get(k) != b.get(k)]


def complete(path: Path) -> None:
    """Rewrite a params file with every key spelled out and commented; its header comment is kept."""
    blocks = check(path)
    depth = "" if path.parent == RECIPES else "recipes/"
    out = io.StringIO()
    out.write(f"# yaml-language-server: $schema={depth}schema.json\n")
    for line in description(path).splitlines():
        out.write(f"# {line}".rstrip() + "\n")
    for name, block in blocks.items():
        out.write(f"\n{name}:")
        _write_settings(out, block, indent=1)
    with atomic_write(path) as file:
        file.write(out.getvalue().encode())


def _write_settings(out: io.StringIO, settings: BaseModel, indent: int) -> None:
    """The fields of a settings group as YAML, each with its docstring as a comment."""
    fields = own_fields(type(settings))
    out.write("\n" if fields else " {}\n")
    for name, field in fields.items():
        value = getattr(settings, name)
        comment = " ".join((field.description or "").split())
        head = "  " * indent + name + ":"
        if isinstance(value, BaseModel):
            out.write(head if not comment else f"{head.ljust(COMMENT_COLUMN)}  # {comment}")
            _write_settings(out, value, indent + 1)
        else:
            _write_value(out, head, _plain(value), comment, indent)


def _write_value(out: io.StringIO, head: str, value: Any, comment: str, indent: int) -> None:
    """`key: value  # comment` where it fits a line, else the comment first and the value as a block."""
    text = f"{head} {_flow(value)}"
    if len(text) <= 72 or not isinstance(value, dict | list):
        out.write(f"{text.ljust(COMMENT_COLUMN)}  # {comment}\n" if comment else f"{text}\n")
        return
    out.write(f"{head.ljust(COMMENT_COLUMN)}  # {comment}\n" if comment else f"{head}\n")
    pad = "  " * (indent + 1)
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        out.write(f"{pad}{key}: {_flow(item)}\n" if isinstance(value, dict) else f"{pad}- {_flow(item)}\n")


def _plain(value: Any) -> Any:
    """Settings inside lists and dicts as plain values, without what is not set."""
    if isinstance(value, BaseModel):
        return {k: _plain(v) for k, v in value.model_dump(exclude_defaults=True).items()}
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    text: str = yaml.safe_dump(
        value, default_flow_style=True, width=10**9, allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a params file, for editors."""
    definitions: dict[str, Any] = {}
    properties = {}
    for name in BLOCKS:
        block = block_of(name)
        schema = block.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
        definitions |= {f"{name}.{model}": inner for model, inner in schema.pop("$defs", {}).items()}
        kept = own_fields(block)
        schema["properties"] = {k: v for k, v in schema.get("properties", {}).items() if k in kept}
        schema["required"] = [k for k in schema.get("required", []) if k in kept]
        properties[name] = {k: v for k, v in schema.items() if v or k == "additionalProperties"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "stillroom params",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "$defs": dict(sorted(definitions.items())),
    }
