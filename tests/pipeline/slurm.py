"""A real Slurm of one node for a test: munged, slurmctld and slurmd on free ports, in a folder of their own.

The node claims more CPUs and memory than the machine has, and GPUs that are links to /dev/null: Slurm counts
and assigns them, nothing opens them. Nothing is written outside the folder; no accounting database runs.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
PLUGIN = Path(sys.prefix, "slurm")
"""where CI puts the executor plugin: in the environment itself, it would slow every Snakemake down"""
PATIENCE = 300
"""seconds that Slurm may take for anything"""
GPUS = 32
"""room for two jobs of the profile's `train`, and for evaluations beside them"""

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SlurmdParameters=config_overrides
KillWait=2
ReturnToService=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=64 RealMemory=1000000 Gres=gpu:{gpus}
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE OverSubscribe=NO
"""

SRUN = """\
#!/bin/sh
# The plugin drops SLURM_CONF from a step's environment, since clusters have their configuration in /etc.
SLURM_CONF={folder}/slurm.conf exec {program} "$@"
"""

SQUEUE = """\
#!/bin/sh
# Answers about a run's jobs once none is active: the plugin waits 10 s longer after each look in vain.
for run; do :; done
for _ in $(seq 600); do
    [ -z "$({program} --noheader --name "$run")" ] && break
    sleep 0.2
done
exec {program} "$@"
"""


def missing() -> str | None:
    """What keeps a Slurm from being started here, as the reason to skip; None: nothing."""
    if os.getuid() != 0:
        return "Slurm's daemons start jobs as their owners: only root can"
    absent = [name for name in (*DAEMONS, "sbatch") if not _real(name)]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm munge"
    done = subprocess.run(
        [sys.executable, "-c", "import snakemake_executor_plugin_slurm"],
        env={**os.environ, "PYTHONPATH": str(PLUGIN)},
        capture_output=True,
    )
    if done.returncode != 0:
        return f"no Slurm plugin for Snakemake, neither installed nor in {PLUGIN}: see .ci/run"
    return None


def _real(program: str) -> str | None:
    return shutil.which(program, path=_path())


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


@dataclass
class Cluster:
    """A running Slurm."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """What Slurm's commands and Snakemake need to find it; and `bin` first on the PATH."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PYTHONPATH": str(PLUGIN)}

    def run(self, *command: str) -> str:
        """The output of one of Slurm's commands."""
        environment = {**os.environ, **self.env, "PATH": _path()}
        return subprocess.run(
            command, env=environment, text=True, capture_output=True, check=True, timeout=PATIENCE
        ).stdout

    def jobs(self) -> dict[str, dict[str, str]]:
        """Every job that the controller remembers, by id, as `scontrol` shows it."""
        lines = self.run("scontrol", "--oneliner", "show", "jobs").splitlines()
        jobs = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]
        return {job["JobId"]: job for job in jobs if "JobId" in job}


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A Slurm that takes jobs; stopped at the end. The folder's path must be short: a socket lies in it."""
    _configure(folder)
    slurm = Cluster(folder)
    secret = [f"--key-file={folder}/munge.key", f"--seed-file={folder}/munge.seed"]
    munge = [f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid"]
    with ExitStack() as stack:
        stack.enter_context(_daemon(folder, "munged", "--foreground", "--force", *secret, *munge))
        _wait_for(lambda: (folder / "munge.socket").exists(), folder)
        stack.enter_context(_daemon(folder, "slurmctld", "-D", "-c", "-f", f"{folder}/slurm.conf"))
        stack.enter_context(_daemon(folder, "slurmd", "-D", "-f", f"{folder}/slurm.conf"))
        _wait_for(lambda: "idle" in slurm.run("sinfo", "--noheader", "--format=%T"), folder)
        try:
            yield slurm
        finally:
            slurm.run("scancel", "--user=root")  # what a failed test left would outlive the daemons
            _wait_for(lambda: not slurm.run("squeue", "--noheader"), folder)


def _configure(folder: Path) -> None:
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool", "gpus", "bin"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    with closing(socket.socket()) as one, closing(socket.socket()) as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        ports = {"controller_port": one.getsockname()[1], "node_port": other.getsockname()[1]}
    (folder / "slurm.conf").write_text(SLURM_CONF.format(host=host, folder=folder, gpus=GPUS, **ports))
    for index in range(GPUS):
        (folder / f"gpus/{index}").symlink_to(os.devnull)  # Slurm wants devices
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File={folder}/gpus/[0-{GPUS - 1}]\n")
    (folder / "cgroup.conf").write_text(_without_cgroups(folder))
    for name, script in {"srun": SRUN, "squeue": SQUEUE}.items():
        (folder / "bin" / name).write_text(script.format(folder=folder, program=_real(name)))
        (folder / "bin" / name).chmod(0o755)
    (folder / "munge.key").touch(0o600)
    (folder / "munge.key").write_bytes(os.urandom(1024))


def _without_cgroups(folder: Path) -> str:
    """Slurm before 23.02 cannot do without a plugin for control groups, but uses it for nothing here."""
    shown = subprocess.run(["slurmd", "-V"], env={"PATH": _path()}, text=True, capture_output=True).stdout
    version = [int(number) for number in re.findall(r"\d+", shown)[:2]]
    if version >= [23, 2]:
        return "CgroupPlugin=disabled\n"
    return f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={folder}/cgroup\n"


@contextmanager
def _daemon(folder: Path, *command: str) -> Iterator[None]:
    with (folder / f"{command[0]}.log").open("w") as log:
        process = subprocess.Popen(
            command, env={**os.environ, "PATH": _path()}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(condition, folder: Path, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except subprocess.CalledProcessError:
            pass  # the controller does not answer yet
        if time.monotonic() > deadline:
            logs = [f"== {path.name}\n{path.read_text()[-2000:]}" for path in sorted(folder.glob("*.log"))]
            raise TimeoutError("Slurm does not come to it\n" + "\n".join(logs))
        time.sleep(0.1)
