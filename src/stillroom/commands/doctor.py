"""`stillroom doctor`: is this checkout, on this machine, ready to run?

One line a check: `ok`, `warn` (it runs, but mind this) or `FAIL` (it will not run, and what to do).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

import typer
from packaging.requirements import Requirement

from stillroom.errors import StillroomError

LOW_DISK_GIB = 10


class Finding(NamedTuple):
    """What one check found."""

    level: Literal["ok", "warn", "FAIL"]
    text: str


def doctor() -> None:
    """Check python, packages, GPUs, disk, git, DVC, params, the endpoint, and that both engines agree."""
    failed = False
    for check in CHECKS:
        for finding in _guarded(check):
            failed |= finding.level == "FAIL"
            typer.echo(f"{finding.level:4}  {check.__name__.strip('_'):9}  {finding.text}")
    raise typer.Exit(1 if failed else 0)


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check whose own error is its finding."""
    try:
        yield from check()
    except StillroomError as error:
        yield Finding("FAIL", str(error))


def _python() -> Iterator[Finding]:
    version = sys.version.split()[0]
    level: Literal["ok", "FAIL"] = "ok" if sys.version_info >= (3, 11) else "FAIL"
    yield Finding(
        level, f"{version} at {sys.executable}" + ("" if level == "ok" else "; 3.11 or newer is needed")
    )


def _packages() -> Iterator[Finding]:
    """Installed versions against constraints.txt, the tested set."""
    wanted = dict(
        line.strip().split("==") for line in Path("constraints.txt").read_text().splitlines() if "==" in line
    )
    other = []
    for name, version in wanted.items():
        try:
            found = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
        if found != version:
            other.append(f"{name} {found} (tested: {version})")
    missing = [name for name in _required() if not _installed(name)]
    if missing:
        yield Finding("FAIL", f"not installed: {', '.join(missing)}; run: make setup")
    if other:
        yield Finding("warn", f"not the tested versions: {', '.join(other)}")
    if not missing and not other:
        yield Finding("ok", "the tested versions of constraints.txt")


def _required() -> list[str]:
    """Names of the packages that stillroom itself needs."""
    needed = map(Requirement, metadata.requires("stillroom") or [])
    return [r.name for r in needed if r.marker is None or r.marker.evaluate()]


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _gpus() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        hint = (
            "a CPU build of torch; reinstall in a fresh .venv: make"
            if _nvidia()
            else "training runs on the CPU"
        )
        yield Finding("warn" if _nvidia() else "ok", f"torch {torch.__version__} sees none: {hint}")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Finding("ok", f"{index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")


def _nvidia() -> bool:
    return shutil.which("nvidia-smi") is not None


def _disk() -> Iterator[Finding]:
    from stillroom.teacher.cache import default_path

    for what, path in (("checkout", Path.cwd()), ("response cache", default_path())):
        existing = next(p for p in (path, *path.parents) if p.exists())
        free = shutil.disk_usage(existing).free / 2**30
        yield Finding("ok" if free > LOW_DISK_GIB else "warn", f"{free:.0f} GiB free for the {what} ({path})")


def _git() -> Iterator[Finding]:
    status = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=False)
    if status.returncode:
        yield Finding("FAIL", "not a git checkout; experiments and versions need one: git init")
        return
    changed = len(status.stdout.splitlines())
    yield Finding("ok", "clean" if not changed else f"{changed} files changed since the last commit")


def _dvc() -> Iterator[Finding]:
    """DVC's state, as far as it decides what a colleague can reproduce."""
    if not Path(".dvc/config").is_file():
        yield Finding("FAIL", "not a DVC checkout: dvc init")
        return
    listing = [sys.executable, "-m", "dvc", "remote", "list"]
    remotes = subprocess.run(listing, capture_output=True, text=True, check=False).stdout.split()
    yield (
        Finding("ok", f"remote {remotes[0]}")
        if remotes
        else Finding("warn", "no remote: artifacts stay on this machine (dvc remote add -d NAME URL)")
    )
    if not Path("dvc.lock").is_file():
        yield Finding("ok", "no dvc.lock yet: nothing was run")
    elif subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "dvc.lock"], check=False).returncode:
        yield Finding(
            "warn", "dvc.lock differs from the last commit: commit it with params.yaml to keep this version"
        )


def _params() -> Iterator[Finding]:
    from stillroom import recipes

    recipes.check(Path("params.yaml"))
    matching = [
        n for n in recipes.names() if not recipes.differences(recipes.path_of(n), Path("params.yaml"))
    ]
    yield Finding("ok", f"params.yaml is valid ({matching[0] if matching else 'no recipe as it stands'})")


def _teacher() -> Iterator[Finding]:
    """The endpoint answers and takes the key; nothing is paid for."""
    from stillroom import params
    from stillroom.teacher.keys import api_key

    document = params.read(params.PARAMS)
    common = params.validate(params.Common, document.get("common") or {}, params.PARAMS, ("common",))
    endpoint = params.validate(params.Endpoint, document.get("endpoint") or {}, params.PARAMS, ("endpoint",))
    if endpoint.base_url is None:
        yield Finding("ok", "embedded: served on loopback while a stage needs it")
        return
    key = api_key(endpoint)
    yield Finding("ok" if key else "warn", f"{endpoint.api_key_env} is {'set' if key else 'not set'}")
    yield _endpoint(endpoint.base_url, common.teacher.model, key)


def _endpoint(base_url: str, model: str, key: str | None) -> Finding:
    import openai

    client = openai.OpenAI(base_url=base_url, api_key=key or "none", timeout=10, max_retries=0)
    try:
        served = [m.id for m in client.models.list()]
    except openai.AuthenticationError:
        return Finding("FAIL", f"{base_url} refuses the key")
    except openai.APIConnectionError:
        return Finding("FAIL", f"{base_url} does not answer; is the server up, the address right?")
    except openai.APIStatusError as error:
        return Finding("warn", f"{base_url} answers {error.status_code} to a list of its models")
    if model not in served:
        return Finding("warn", f"{base_url} does not list {model!r} among its {len(served)} models")
    return Finding("ok", f"{base_url} serves {model}")


def _engines() -> Iterator[Finding]:
    """Snakemake's plan calls stale exactly what `dvc status` does."""
    from stillroom.commands.plan import judge

    planned = {stage["name"] for stage in judge() if stage["stale"]}
    status = [sys.executable, "-m", "dvc", "status", "--json"]
    done = subprocess.run(status, capture_output=True, text=True, check=False)
    if done.returncode:
        yield Finding("FAIL", f"dvc status: {done.stderr.strip()}")
        return
    judged = set(json.loads(done.stdout))
    if planned != judged:
        yield Finding("FAIL", f"only one of the two would run: {', '.join(sorted(planned ^ judged))}")
    elif judged:
        yield Finding("ok", f"both would run: {', '.join(sorted(judged))}")
    else:
        yield Finding("ok", "both have nothing to do")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python,
    _packages,
    _gpus,
    _disk,
    _git,
    _dvc,
    _params,
    _teacher,
    _engines,
)
