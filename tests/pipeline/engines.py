"""The engines with their imports done: a process that forks itself for every command line.

A start of Snakemake costs a second of imports, one of DVC half of that. `Engines.run` forks a process that
has them behind it, and learns from every command which ones that are. Commands of other programs are for
`subprocess`; what is killed, or watched while it runs, is started in earnest.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from importlib import import_module
from pathlib import Path

MAIN = {"snakemake": "snakemake.cli", "dvc": "dvc.cli"}
PATIENCE = 600
"""seconds after which a command that hangs is ended"""


class Engines:
    """The process that forks; it ends with the one that started it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"LC_ALL": "C.UTF-8"},  # the commands bring theirs
        )

    @staticmethod
    def know(command: list[str], env: dict[str, str]) -> bool:
        """Whether `run` takes the command: snakemake, dvc, a module or a script of this Python."""
        known = command[0] in MAIN or (command[0] == sys.executable and command[1] != "-c")
        return known and "PYTHONPATH" not in env

    def run(self, command: list[str], cwd: Path, env: dict[str, str]) -> tuple[int, str]:
        """Exit status, and stdout and stderr together."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            job = {"command": command, "cwd": str(cwd), "env": env, "folder": folder}
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
            status = int(self.process.stdout.readline())
            return status, Path(folder, "output").read_text()


def serve() -> None:
    """Fork for every job that a line of stdin describes; answer with its exit status."""
    del sys.path[0]
    for line in sys.stdin:
        job = json.loads(line)
        if (child := os.fork()) == 0:
            os._exit(become(**job))
        _, status = os.waitpid(child, 0)
        learn(Path(job["folder"], "imports"))
        print(os.waitstatus_to_exitcode(status), flush=True)


def learn(imports: Path) -> None:
    """Import what the last command did; a checkout's own modules are not found here."""
    for name in imports.read_text().split() if imports.exists() else []:
        with contextlib.suppress(Exception):
            import_module(name)
    gc.freeze()


def become(command: list[str], cwd: str, env: dict[str, str], folder: str) -> int:
    """Do what a new process with this command would do; its exit status.

    All but to clear up the memory of what was imported, which takes longer than many a command.
    """
    signal.alarm(PATIENCE)
    Path(folder, "output").touch()
    for descriptor, path in enumerate((os.devnull, f"{folder}/output", f"{folder}/output")):
        file = os.open(path, os.O_RDWR | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None
    known = set(sys.modules)
    try:
        execute(*command)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        Path(folder, "imports").write_text("\n".join(m for m in sys.modules if m not in known))
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def execute(program: str, *arguments: str) -> None:
    """What the program's script does, or `python -m MODULE`, or `python SCRIPT`."""
    if program in MAIN:
        sys.argv = [program, *arguments]
        sys.exit(import_module(MAIN[program]).main())
    elif arguments[0] == "-m":
        sys.argv = list(arguments[1:])
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(arguments)
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    serve()
