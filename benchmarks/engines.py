"""What the two engines cost on top of the stages: nothing to do, and per executed stage.

    python benchmarks/engines.py [--rounds 7]

The project's own graph and rules, with every command replaced by one that writes its outs at once, against
each engine's own floor: one rule (same profile), one stage, and as many bare stages. All in one run, in turn,
so that a busy machine disturbs all alike. Prints the fastest and the median of the rounds, in seconds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
ENV = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
WRITE = """for out in "$@"; do
  case "$out" in
    *.*) mkdir -p "$(dirname "$out")"; echo '{"n": 1}' > "$out" ;;
    *) mkdir -p "$out"; echo "$out" > "$out/file" ;;
  esac
done
"""
FLOOR_RULE = 'rule all:\n    input: "done"\n\nrule one:\n    output: "done"\n    shell: "echo > {output}"\n'
FLOOR_STAGE = {"one": {"cmd": "cp in out", "deps": ["in"], "outs": ["out"]}}


def run(folder: Path, *command: str) -> float:
    """Seconds that a command takes. Raises CalledProcessError where it fails."""
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, env=ENV, capture_output=True, check=True)
    return time.perf_counter() - start


def own_graph(folder: Path) -> Path:
    """The project's checkout with commands that only write their outs, everything fresh."""
    folder.mkdir()
    for name in ("Snakefile", "params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    for name in ("workflow", "profiles", "src", "data/fixtures"):
        shutil.copytree(ROOT / name, folder / name)
    document = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    for stage in document["stages"].values():
        outs = [*stage["outs"], *stage.get("metrics", []), *stage.get("plots", [])]
        paths = [path for out in outs for path in (out if isinstance(out, dict) else [out])]
        stage["cmd"] = f"sh write.sh {' '.join(paths)}"
    (folder / "dvc.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    (folder / "write.sh").write_text(WRITE)
    return prepared(folder)


def prepared(folder: Path) -> Path:
    """Put the folder under git and DVC, and run it once."""
    for command in ("git init --quiet", "dvc init --quiet", "dvc repro --quiet"):
        run(folder, *command.split())
    return folder


def one_stage(folder: Path) -> Path:
    """DVC's floor."""
    folder.mkdir()
    (folder / "in").write_text("in\n")
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": FLOOR_STAGE}))
    return prepared(folder)


def bare_stages(folder: Path, count: int) -> Path:
    """DVC's floor for a pipeline of this length: a chain, one dep and one out each, no params."""
    folder.mkdir()
    (folder / "0").write_text("in\n")
    chain = {
        f"s{i}": {"cmd": f"cp {i} {i + 1}", "deps": [f"{i}"], "outs": [f"{i + 1}"]} for i in range(count)
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": chain}))
    return prepared(folder)


def one_rule(folder: Path) -> Path:
    """Snakemake's floor, with this project's profile."""
    folder.mkdir()
    (folder / "Snakefile").write_text(FLOOR_RULE)
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    run(folder, "snakemake")
    return folder


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        own, stage, rule = own_graph(base / "own"), one_stage(base / "stage"), one_rule(base / "rule")
        stages = len(yaml.safe_load((own / "dvc.lock").read_text())["stages"])
        bare = bare_stages(base / "bare", stages)
        plan = own / ".dvc/tmp/stages/plan.json"
        times: dict[str, list[float]] = {}
        for _ in range(rounds):
            note(times, "dvc repro, one stage", run(stage, "dvc", "repro"))
            note(times, "dvc repro, bare stages", run(bare, "dvc", "repro"))
            note(times, "dvc repro, ours", run(own, "dvc", "repro"))
            note(times, "snakemake, one rule", run(rule, "snakemake", "--cores", "all"))
            plan.unlink(missing_ok=True)
            note(times, "snakemake, ours, DVC asked", run(own, "snakemake", "--cores", "all"))
            note(times, "snakemake, ours", run(own, "snakemake", "--cores", "all"))
        print(f"nothing to do             {'min':>7} {'median':>7}  of the floor (min, median)")
        for name, floor in (("dvc repro", "one stage"), ("snakemake", "one rule")):
            for label in [key for key in times if key.startswith(name)]:
                show(label, times[label], times[f"{name}, {floor}"])
        idle = {name: statistics.median(times[f"{name}, ours"]) for name in ("dvc repro", "snakemake")}
        commands = {
            "dvc repro": ("dvc", "repro", "--force"),
            "snakemake": ("snakemake", "--cores", "1", "--forceall"),
            "snakemake, all cores": ("snakemake", "--cores", "all", "--forceall"),
        }
        print(f"\nper executed stage, {stages} stages")
        for label, command in commands.items():
            spent = run(own, *command) - idle[label.partition(",")[0]]
            print(f"{label:26} {spent / stages:6.2f}")


def note(times: dict[str, list[float]], label: str, seconds: float) -> None:
    """Add one measurement."""
    times.setdefault(label, []).append(seconds)


def show(label: str, seconds: list[float], floor: list[float]) -> None:
    """One row: fastest, median, and both against the floor's."""
    fastest, middle = min(seconds), statistics.median(seconds)
    ratio = f"{fastest / min(floor):5.2f} {middle / statistics.median(floor):5.2f}"
    print(f"{label:26} {fastest:6.2f} {middle:7.2f}  {ratio}")


if __name__ == "__main__":
    main()
