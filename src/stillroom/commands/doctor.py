"""`stillroom doctor`: is this checkout, on this machine, ready to run?

One line a check: `ok`, `warn` (it runs, but mind this) or `FAIL` (it will not run, and what to do).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import typer
from packaging.requirements import Requirement

from stillroom.errors import StillroomError

if TYPE_CHECKING:
    from stillroom.params import Endpoint

LOW_DISK_GIB = 10


class Finding(NamedTuple):
    """What one check found."""

    level: Literal["ok", "warn", "FAIL"]
    text: str


def doctor() -> None:
    """Check python, packages, GPUs, disk, git, DVC, params, endpoints, and that both engines agree."""
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


def _extras() -> Iterator[Finding]:
    """What only some recipes need, before a run of days comes to it."""
    from stillroom import params
    from stillroom.benchmarks import harness
    from stillroom.stages import evaluate

    if "leaderboard" in params.load("evaluate", evaluate.Params).benchmarks:
        harness.ready()
        yield Finding("ok", f"leaderboard: lm-eval {metadata.version('lm_eval')}")
    else:
        yield Finding("ok", "the params need none")


def _teacher() -> Iterator[Finding]:
    """The endpoint answers and takes the key; nothing is paid for."""
    from stillroom import params

    document = params.read(params.PARAMS)
    common = params.validate(params.Common, document.get("common") or {}, params.PARAMS, ("common",))
    endpoint = params.validate(params.Endpoint, document.get("endpoint") or {}, params.PARAMS, ("endpoint",))
    if endpoint.base_url is None:
        yield Finding("ok", "embedded: served on loopback while a stage needs it")
        return
    yield from _reached(endpoint, [common.teacher.model])


def _judge() -> Iterator[Finding]:
    """So do the judges of the benchmarks in force."""
    from stillroom import params
    from stillroom.stages import evaluate

    settings = params.load("evaluate", evaluate.Params)
    judged = [found for name in settings.benchmarks if (found := evaluate.asking(name, settings))]
    if not judged:
        yield Finding("ok", "no benchmark of evaluate.benchmarks asks one")
        return
    models = sorted({found.judge.model for found in judged if found.judge})
    yield from _reached(settings.endpoint.of_judges(), models)


def _models() -> Iterator[Finding]:
    """So do the models without weights, and the service that trains."""
    from stillroom import endpoint_model, params
    from stillroom.stages import evaluate, train

    settings, training = params.load("evaluate", evaluate.Params), params.load("train", train.Params)
    found = {name: endpoint_model.find(Path("models", name)) for name in settings.models}
    remote = {name: model for name, model in found.items() if model}
    for name, model in remote.items():
        for finding in _reached(model.reached(settings.endpoint), [model.model]):
            yield finding._replace(text=f"models/{name}: {finding.text}")
    if training.backend == "api":
        service = training.api.reached(training.endpoint)
        for finding in _reached(service, [training.api.model] if training.api.model else []):
            yield finding._replace(text=f"train.api: {finding.text}")
    elif not remote:
        yield Finding("ok", "all have weights, and are trained on this machine")


def _reached(endpoint: Endpoint, models: Sequence[str]) -> Iterator[Finding]:
    """Whether the endpoint's key is set, the endpoint answers, and lists these models."""
    from stillroom.teacher.keys import api_key

    if endpoint.base_url is None:
        yield Finding("FAIL", "no address: set endpoint.base_url or train.api.base_url")
        return
    key = api_key(endpoint)
    yield Finding("ok" if key else "warn", f"{endpoint.api_key_env} is {'set' if key else 'not set'}")
    yield _listed(endpoint.base_url, models, key)


def _listed(base_url: str, models: Sequence[str], key: str | None) -> Finding:
    import openai

    from stillroom.teacher.transport import is_local

    http = openai.DefaultHttpxClient(trust_env=not is_local(base_url))
    client = openai.OpenAI(
        base_url=base_url, api_key=key or "none", timeout=10, max_retries=0, http_client=http
    )
    try:
        listing = client.models.with_raw_response.list().http_response.json()
    except openai.AuthenticationError:
        return Finding("FAIL", f"{base_url} refuses the key")
    except openai.APIConnectionError:
        return Finding("FAIL", f"{base_url} does not answer; is the server up, the address right?")
    except openai.APIStatusError as error:
        return Finding("warn", f"{base_url} answers {error.status_code} to a list of its models")
    except ValueError:
        return Finding("warn", f"{base_url} answers, and not with a list of its models: is that its API?")
    rows = listing.get("data") if isinstance(listing, dict) else listing  # Together's is a bare array
    served = {row.get("id") for row in rows if isinstance(row, dict)} if isinstance(rows, list) else set()
    if missing := [model for model in models if model not in served]:
        names = ", ".join(map(repr, missing))
        return Finding("warn", f"{base_url} does not list {names} among its {len(served)} models")
    return Finding("ok", f"{base_url} serves {', '.join(models) or 'what is asked of it'}")


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
    _extras,
    _teacher,
    _judge,
    _models,
    _engines,
)
