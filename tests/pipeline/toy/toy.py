"""A stage of the toy pipeline: `python src/toy.py STAGE [MODEL BENCHMARK]`.

Every real execution appends a line to $TOY_LOG. The stage named in $TOY_HANG waits until it is killed or the
file $TOY_GO exists.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path

import yaml

PARAMS = yaml.safe_load(Path("params.yaml").read_text())


def read(path):
    return Path(path).read_text()


def write(path, text):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def digest(*parts):
    return hashlib.sha256("".join(map(str, parts)).encode()).hexdigest()


def fetch():
    root = Path(PARAMS["fetch"]["root"])
    write("data/raw/a/rows.txt", read(root / "rows.txt"))
    write("data/raw/b/part.txt", read(root / "part.txt"))


def base():
    write("models/base/weights.txt", digest("base", PARAMS["common"]["seed"]))
    write("models/base/config.json", "{}")


def clean():
    rows = read("data/raw/a/rows.txt").splitlines()[: PARAMS["clean"]["keep"]]
    write("data/clean.txt", "\n".join(sorted(set(rows))) + "\n")
    write("reports/metrics/clean.json", json.dumps({"rows": len(set(rows))}))


def train():
    lr = PARAMS["train"]["lr"]
    weights = digest(read("data/clean.txt"), read("data/raw/b/part.txt"), read("models/base/weights.txt"), lr)
    write("models/tuned-7b/weights.txt", weights)
    write("models/tuned-7b/config.json", "{}")
    write("reports/metrics/train.json", json.dumps({"loss": round(1 / (1 + lr), 4)}))
    write("reports/figures/train.csv", "step,loss\n" + "".join(f"{i},{lr / i}\n" for i in (1, 2, 3)))


def evaluate(model, benchmark):
    score = int(digest(read(f"models/{model}/weights.txt"), benchmark)[:4], 16) / 65536
    write(f"reports/samples/{model}/{benchmark}.txt", f"{score}\n")
    write(f"reports/metrics/evaluate/{model}/{benchmark}.json", json.dumps({"score": score}))


def report():
    metrics = {str(p): json.loads(p.read_text()) for p in sorted(Path("reports/metrics").rglob("*.json"))}
    write("reports/index.html", json.dumps(metrics, indent=1))
    write("reports/curves/qa-length.svg", '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>')


def hang():
    print("hanging", flush=True)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and not Path(os.environ["TOY_GO"]).exists():
        time.sleep(0.02)


if __name__ == "__main__":
    name, *items = sys.argv[1:]
    with Path(os.environ.get("TOY_LOG", os.devnull)).open("a") as log:
        log.write("@".join([name, "-".join(items)]).rstrip("@") + "\n")
    if os.environ.get("TOY_HANG") == name:
        hang()
    if os.environ.get("TOY_FAIL") == name:
        shutil.rmtree("models/tuned-7b", ignore_errors=True)
        sys.exit(f"{name}: this stage fails on purpose")
    print(f"{name}: GPUs {os.environ.get('CUDA_VISIBLE_DEVICES')}")
    globals()[name](*items)
