"""Each stage's code deps in dvc.yaml: its module and the first-party modules that it imports, transitively.

    python workflow/code_deps.py           # rewrite dvc.yaml
    python workflow/code_deps.py --check   # exit 1 where dvc.yaml differs (a test does the same)

Imports inside functions count: what a stage can run is what it depends on. Those for type checkers do not.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from ruamel.yaml import YAML

SRC = Path("src")
DVC = Path("dvc.yaml")


def closure(module: str) -> list[str]:
    """Paths (as in dvc.yaml) of a first-party module and everything first-party that it imports."""
    found: dict[str, Path] = {}
    todo = [module]
    while todo:
        name = todo.pop()
        path = _file(name)
        if path is None or name in found:
            continue
        found[name] = path
        todo += [name.rpartition(".")[0], *_imports(path, name)]
    return sorted(p.as_posix() for p in found.values() if p.stat().st_size or p.name != "__init__.py")


def _file(module: str) -> Path | None:
    """The file of a first-party module name, or None for names that are not modules of ours."""
    if module.split(".")[0] != "stillroom":
        return None
    base = SRC.joinpath(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def _imports(path: Path, module: str) -> list[str]:
    """Every module name that a file imports; `from a import b` may mean the module a.b."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body.clear()
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in {module}"
            names += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def expected(name: str, deps: list[str]) -> list[str]:
    """The deps of a stage with its code deps put right: code first, then the rest as written."""
    data = [d for d in deps if not str(d).startswith("src/")]
    return closure(f"stillroom.stages.{name}") + data


def main() -> int:
    """Rewrite or check dvc.yaml."""
    yaml = YAML()
    yaml.width = 200
    document = yaml.load(DVC.read_text(encoding="utf-8"))
    changed = []
    for name, stage in document["stages"].items():
        wanted = expected(name, list(stage["deps"]))
        if list(stage["deps"]) != wanted:
            changed.append(name)
            stage["deps"][:] = wanted
    if "--check" in sys.argv:
        print(*(f"dvc.yaml: code deps of {n} differ: make deps" for n in changed), sep="\n")
        return bool(changed)
    if changed:
        with DVC.open("w", encoding="utf-8") as file:
            yaml.dump(document, file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
