"""A toy checkout with both engines: built and run once, copied for each test."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).parent))  # engines.py, slurm.py

from engines import Engines

ROOT = Path(__file__).resolve().parents[2]
TOY = Path(__file__).parent / "toy"
PROGRAMS = Path(sys.executable).parent
PATIENCE = 300
"""seconds after which a test gives up: nothing takes as long on a machine that is ten times slower"""


@cache
def engines() -> Engines:
    """One for all tests of this process."""
    return Engines()


@dataclass
class Checkout:
    """A git checkout with a pipeline, and the commands to use it."""

    root: Path
    env: dict[str, str]

    def run(self, *command, check=True, cwd=None, **env):
        """Run to the end; the output holds stdout and stderr."""
        words, place, known = [str(part) for part in command], cwd or self.root, {**self.env, **env}
        if Engines.know(words, known):
            done = subprocess.CompletedProcess(words, *engines().run(words, place, known))
        else:
            done = subprocess.run(
                words,
                cwd=place,
                env=known,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=PATIENCE,
            )
        if check:
            assert done.returncode == 0, done.stdout
        return done

    def start(self, *command, **env):
        """Start in the background, in a process group of its own; the output goes to `output`."""
        with self.output.open("w") as file:
            return subprocess.Popen(
                [str(part) for part in command],
                cwd=self.root,
                env={**self.env, **env},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ended(self, process):
        """The exit status of what `start` gave."""
        return process.wait(PATIENCE)

    @property
    def output(self):
        return self.root.parent / "output.txt"

    @property
    def go(self):
        return Path(self.env["TOY_GO"])

    def snakemake(self, *arguments, **keywords):
        return self.run("snakemake", *arguments, **keywords)

    def dvc(self, *arguments, **keywords):
        return self.run("dvc", *arguments, **keywords)

    def engine(self, name, **keywords):
        """Everything that is stale, through one of the two engines."""
        return self.snakemake(**keywords) if name == "snakemake" else self.dvc("repro", **keywords)

    def git(self, *arguments):
        return self.run("git", *arguments)

    def ran(self):
        """The stages that were executed since the last call, sorted."""
        log = Path(self.env["TOY_LOG"])
        lines = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return sorted(lines)

    def set(self, key, value):
        """Change one setting of params.yaml."""
        path = self.root / "params.yaml"
        document = yaml.safe_load(path.read_text())
        *groups, last = key.split(".")
        block = document
        for group in groups:
            block = block[group]
        block[last] = value
        path.write_text(yaml.safe_dump(document, sort_keys=False))

    def plan(self):
        """The plan by stage name, as DVC judges it anew."""
        shown = self.run(sys.executable, "workflow/plan.py", "show", "--json").stdout
        return {stage["name"]: stage for stage in json.loads(shown)}

    def would_run(self, *arguments):
        """Addresses that `snakemake -n` names."""
        shown = self.snakemake("-n", *arguments).stdout
        return sorted(re.findall(r"^Job \d+: (\S+): ", shown, re.MULTILINE))

    def status(self):
        """Addresses that `dvc status` names."""
        return sorted(json.loads(self.run("dvc", "status", "--json").stdout))

    def wait_for(self, condition):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, self.output.read_text() if self.output.exists() else ""
            time.sleep(0.05)

    def wait_for_output(self, text):
        self.wait_for(lambda: text in self.output.read_text())

    def wait_for_end_of_group(self, process):
        """Until no process of the group is left, dead ones included: DVC counts them as holders of locks."""
        process.wait()
        self.wait_for(lambda: str(process.pid) not in self.run("ps", "-eo", "pgid").stdout.split())


def environment(home):
    """Only what the engines need: no settings, caches or variables of the user's."""
    home.mkdir(parents=True, exist_ok=True)
    git = home / "gitconfig"
    git.write_text("[user]\nname = t\nemail = t@t\n[init]\ndefaultBranch = main\n[gc]\nauto = 0\n")
    return {
        "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
        "HOME": str(home),
        "SHELL": "/bin/sh",
        "LC_ALL": "C.UTF-8",
        "CUDA_VISIBLE_DEVICES": "",
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(home / "dvc-site"),
        "DVC_GLOBAL_CONFIG_DIR": str(home / "dvc-global"),
        "DVC_SYSTEM_CONFIG_DIR": str(home / "dvc-system"),
        "GIT_CONFIG_GLOBAL": str(git),
        "GIT_CONFIG_NOSYSTEM": "1",
        "TMPDIR": str(home),
        "TOY_LOG": str(home / "ran.txt"),
        "TOY_GO": str(home / "go"),
    }


def new_checkout(folder, files):
    """A git and DVC checkout with this project's engines, and `files` (path -> where it is, or its text)."""
    checkout = Checkout(folder / "checkout", environment(folder / "home"))
    checkout.root.mkdir(parents=True)
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("workflow", "profiles"):
        shutil.copytree(ROOT / name, checkout.root / name, ignore=ignore)
    shutil.copy(ROOT / ".dvcignore", checkout.root)
    for name, content in files.items():
        path = checkout.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content.read_text() if isinstance(content, Path) else content)
    checkout.git("init", "--quiet")
    checkout.dvc("init", "--quiet")
    checkout.git("add", "--all")
    checkout.git("commit", "--quiet", "--message", "code")
    return checkout


TOY_FILES = {
    **{name: TOY / name for name in ("dvc.yaml", "params.yaml", "Snakefile", "rules.smk")},
    "src/toy.py": TOY / "toy.py",
    "sources/rows.txt": "c\na\nb\n",
    "sources/part.txt": "part\n",
    ".gitignore": "/.snakemake/\n/logs/\n__pycache__/\n/data/\n/models/\n/reports/\n",
}


@pytest.fixture(scope="session")
def make_checkout():
    return new_checkout


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """The toy after its first run, with dvc.lock in git; made once for all workers."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "toy-template"
    with FileLock(shared / "toy-template.lock"):
        if not (folder / "ready").exists():
            checkout = new_checkout(folder, TOY_FILES)
            checkout.dvc("repro", "--quiet")
            checkout.git("add", "dvc.lock")
            checkout.git("commit", "--quiet", "--message", "first run")
            (folder / "ready").touch()
    return folder


@pytest.fixture
def toy(template, tmp_path):
    """A checkout of the toy where everything is fresh."""
    checkout = Checkout(tmp_path / "checkout", environment(tmp_path / "home"))
    shutil.copytree(template / "checkout", checkout.root, symlinks=True)
    return checkout
