"""Time and size of the report: every benchmark × 4 models × 10,000 samples.

    python benchmarks/report.py [--models 4] [--samples 10000]

Writes reports/{metrics,samples} into a temporary folder, runs the stage on it in a process of its own, and
prints wall and CPU seconds, peak memory and the page's size; where Chromium is installed, also after how
many milliseconds the page can be used, is laid out, and how long its filter of samples takes. Goal for six
benchmarks: below 10 s and 25 MB, usable in less than 1 s.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import orjson
import yaml

from stillroom.artifacts import write_json, write_jsonl
from stillroom.benchmarks import BENCHMARKS
from stillroom.benchmarks.base import Sample
from stillroom.benchmarks.leaderboard import TITLES
from stillroom.stages.evaluate import metrics

RUN = "from stillroom.stages import report as r; r.run(r.Paths(), r.Params(baseline='m0'))"
PROMPT = "The lamp burned on, and the keeper waited for a boat that was late. " * 40


def scores(name: str, quality: float, draw: random.Random) -> dict[str, float]:
    """Scores in the shape of a benchmark."""
    right = float(draw.random() < quality)
    size = draw.randint(8_000, 12_000)
    place = {"position": 25 * draw.randint(0, 4)}
    if name == "pg19":
        nll = {f"nll@{n}": size * (1.1 - 0.3 * quality + draw.gauss(0, 0.1)) for n in (2048, 4096, 8192)}
        return {"tokens": size // 4, "bytes": size, "words": size // 6, **nll}
    if name == "booksum":
        return {key: draw.betavariate(2, 6) * quality for key in ("rouge1", "rouge2", "rougeL", "rougeLsum")}
    if name == "mqa":
        return {"accuracy": right, "documents": draw.choice((20, 30, 50)), **place}
    if name == "longeval":
        return {"accuracy": right, draw.choice(("lines", "pairs")): draw.choice((100, 200, 400)), **place}
    if name == "alpaca_eval":
        win = draw.betavariate(quality, 1 - quality)
        return {"characters": size / 8, "preference": 1 + win, "win": win}
    if name == "raft":
        return {"exact_match": right, "rouge_l": max(right, draw.random()), "tagged": 1.0, "refused": 0.0}
    if name == "leaderboard":
        return {"score": right}
    raise SystemExit(f"which scores has a sample of {name}?")


def rows(name: str, quality: float, count: int) -> list[Sample]:
    """Samples, three to a group where the benchmark's are; the leaderboard's of its tasks in turn."""
    draw, per = random.Random(name), 3 if name == "mqa" else 1
    samples = []
    for i in range(count):
        found, id, group = scores(name, quality, draw), f"{i:06}", f"{i // per:06}"
        if name == "leaderboard":
            task = list(TITLES)[i % len(TITLES)]
            found, id, group = found | {task: found["score"]}, f"{task}/{id}", f"{task}/{group}"
        samples.append(Sample(id, group, PROMPT, "It is on Saturday. " * 10, ["Saturday"], found))
    return sorted(samples, key=lambda sample: sample.id)


def make(root: Path, models: int, count: int) -> list[str]:
    """The folder of reports; gives the names of the benchmarks."""
    names = list(BENCHMARKS)
    for name, benchmark in BENCHMARKS.items():
        for model in range(models):
            samples = rows(name, 0.3 + 0.1 * model, count)
            write_jsonl(root / f"reports/samples/m{model}/{name}.jsonl", samples)
            write_json(root / f"reports/metrics/evaluate/m{model}/{name}.json", metrics(benchmark(), samples))
    matrix = {"models": [f"m{i}" for i in range(models)], "benchmarks": names}
    (root / "params.yaml").write_text(yaml.safe_dump({"evaluate": matrix}))
    (root / "reports/figures").mkdir()
    return names


CLOCK = """{
const seen = [performance.now()];
document.body.getBoundingClientRect();
seen.push(performance.now());
const form = document.getElementById("filter");
form.elements.benchmark.value = "";
form.elements.find.value = "saturday";
form.dispatchEvent(new Event("input", {bubbles: true}));
document.body.getBoundingClientRect();
seen.push(performance.now() - seen[1]);
document.title = "seen " + seen.map(Math.round).join(" ");
}"""


def opened(page: Path) -> dict[str, int]:
    """Milliseconds in Chromium until the page is read, is laid out, and of one filter of all samples.

    Nothing where there is no browser.
    """
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        return {}
    copy = page.with_name("timed.html")
    copy.write_text(page.read_text().replace("</body>", f"<script>{CLOCK}</script></body>"))
    flags = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}")
    command = [browser, *flags, "--window-size=1440,900", "--dump-dom", copy.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    found = re.search(r"<title>seen (\d+) (\d+) (\d+)</title>", dom)
    names = ("interactive_ms", "laid_out_ms", "filter_ms")
    return dict(zip(names, map(int, found.groups()), strict=True)) if found else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--samples", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        start = time.process_time()
        names = make(root, arguments.models, arguments.samples)
        made = time.process_time() - start
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", RUN], cwd=root, check=True)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        report = {
            "benchmarks": names,
            "models": arguments.models,
            "samples": arguments.samples,
            "seconds": round(time.perf_counter() - start, 1),
            "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
            "peak_mb": used.ru_maxrss // 1024,
            "page_mb": round((root / "reports/index.html").stat().st_size / 1e6, 2),
            "samples_mb": round(sum(p.stat().st_size for p in root.rglob("*.jsonl")) / 1e6),
            **opened(root / "reports/index.html"),
            "made_in_cpu_seconds": round(made, 1),
            "load": round(os.getloadavg()[0], 1),
        }
    print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())


if __name__ == "__main__":
    main()
