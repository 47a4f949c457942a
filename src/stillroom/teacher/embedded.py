"""The embedded teacher: a server of models/teacher that lives as long as a stage asks it.

    with serving(params.teacher, params.endpoint, Path("models/teacher")) as base_url:
        ...  # POST {base_url}/chat/completions

The server is a process of its own. It ends with the block, however the block is left, and it ends by itself
where this process is killed. A remote teacher is only named.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from stillroom.errors import EndpointError, ModelError, ParamsError
from stillroom.params import Endpoint, Teacher

SMALL = 64 << 20
"""bytes of weights up to which a model is a small one"""
LOG_LINES = 12
"""of the server's log, in an error"""


@contextmanager
def serving(teacher: Teacher, endpoint: Endpoint, folder: Path) -> Iterator[str]:
    """Yield the teacher's base URL; for the embedded one, start its server and stop it at the end.

    Raises ParamsError where model and address contradict each other, ModelError where `folder` holds no
    model, EndpointError where the server does not start or, when the block ends with an error of the
    endpoint, has died.
    """
    if (teacher.model == "embedded") != (endpoint.base_url is None):
        raise ParamsError(
            f"the teacher is {teacher.model!r}, but endpoint.base_url is {endpoint.base_url or 'null'}",
            where="params.yaml: common.teacher.model",
            hint="only the embedded teacher has no address",
        )
    if endpoint.base_url is not None:
        yield endpoint.base_url
        return
    check(folder)
    with tempfile.TemporaryFile() as log:
        # A session of its own: Ctrl-C reaches this process only, which then ends the server in good order.
        process = subprocess.Popen(
            command(teacher, folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        try:
            base_url = ready(process, log)
            try:
                yield base_url
            except EndpointError as error:
                if process.poll() is None:
                    raise
                raise died(process, log) from error
        finally:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


def check(folder: Path) -> None:
    """Raise ModelError where there is no model to serve."""
    if not (folder / "config.json").is_file():
        raise ModelError(
            "holds no model, but the teacher is the embedded one",
            where=str(folder),
            hint="set models.teacher to a model, or common.teacher.model and endpoint.base_url",
        )


def command(teacher: Teacher, folder: Path) -> list[str]:
    """How the server is started.

    A small model runs in float64: a greedy answer is then the same whichever requests share its batch. In
    float32 the order of sums depends on the batch's shape, and two tokens nearly as likely swap now and then.
    It runs in one thread: a second one gains little, and where its core is busy both wait for each other.
    """
    from stillroom.teacher import (
        server,  # its libraries take a while to import, and most teachers are elsewhere
    )

    options = ["--name", teacher.model, "--parent", str(os.getpid())]
    if sum(path.stat().st_size for path in folder.glob("*.safetensors")) <= SMALL:
        options += ["--dtype", "float64", "--threads", "1"]
    return [sys.executable, "-m", server.__name__, str(folder), *options]


def ready(process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    """Wait for the server to name its address and to answer there."""
    assert process.stdout is not None
    base_url = process.stdout.readline().decode().strip()
    if not base_url:
        process.wait()
        raise died(process, log)
    health = base_url.removesuffix("/v1") + "/health"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(health, timeout=60).close()
    except OSError as error:
        raise EndpointError(f"the embedded teacher does not answer ({error})", where=base_url) from None
    return base_url


def died(process: subprocess.Popen[bytes], log: IO[bytes]) -> EndpointError:
    """The error that shows the end of the server's log."""
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()[-LOG_LINES:]
    return EndpointError(
        f"the embedded teacher's server ended with exit code {process.returncode}",
        where="common.teacher",
        hint="\n  ".join(["its last words:", *lines]) if lines else None,
    )
