"""What extraction costs: against parsing the file with orjson, and against FastChat's cleaning.

    python benchmarks/extract.py [--conversations 90000] [--peer FOLDER/bin/python] [--keep all]

A generated file in the shape of raw ShareGPT (answers are HTML, some records are dirty in the ways that the
steps are for) goes through `orjson.loads`, through extraction with one process and with more, and a part of
it through FastChat's `clean_sharegpt` and `optional_clean` (`pip install fschat polyglot pyicu pycld2` in an
environment of its own; left out where --peer is not given). Lengths: see `Lengths`; they make the 13 KB a
conversation that the 90K conversations (1.2 GB) of ShareGPT have.

Seconds of wall clock and of CPU, each also as a multiple of orjson's; conversations per CPU second of all
processes, which a busy machine stretches less; the largest resident memory of all processes together.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
COMMON_WORDS = """
the of and to a in is it you that he was for on are with as I his they be at one have this from or had by
hot but some what there we can out other were all your when up use word how said an each she which do
their time if will way about many then them would write like so these her long make thing see him two has
look more day could go come did my sound no most number who over know water than call first people may
down side
"""
FOREIGN = {
    "german": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an",
    "french": "de la le et les des en un du une que est pour qui dans par plus pas au sur ne",
    "chinese": "的 一 是 不 了 在 人 有 我 他 这 中 大 来 上 国 个 到 说 们 为 子 和 你 地 出 道 也 时 年",
}
NOTICE = "I'm sorry, but as an AI language model trained by OpenAI I cannot do that."
CODE_BLOCK = (
    '<pre><div class="bg-black mb-4 rounded-md"><div class="flex items-center relative">'
    '<span>{0}</span><button class="flex ml-auto gap-2">Copy code</button></div>'
    '<div class="p-4 overflow-y-auto">'
    '<code class="!whitespace-pre hljs language-{0}">{1}</code></div></div></pre>'
)
RUN = """
import sys
from pathlib import Path
from stillroom.stages.extract import Params, Paths, run
raw, out, keep, workers = sys.argv[1:]
names = ("conversations", "dropped", "metrics")
paths = Paths(Path(raw), **{name: Path(out, name) for name in names})
run(paths, Params(keep=keep), int(workers))
"""
PEER_ROUNDS = 3
FLOOR = "import pathlib, sys, orjson; orjson.loads(pathlib.Path(sys.argv[1]).read_bytes())"


@dataclass(frozen=True)
class Lengths:
    """Log-normal: (mean, deviation) of the logarithm."""

    exchanges: tuple[float, float] = (0.9, 0.85)
    question: tuple[float, float] = (4.5, 1.3)
    """characters"""
    paragraphs: tuple[float, float] = (1.6, 0.8)
    """of an answer, of which some are lists and code"""


@dataclass(frozen=True)
class Cost:
    """Of one command: seconds, CPU seconds, and bytes at its peak."""

    wall: float
    cpu: float
    memory: int


class Writer:
    """Made-up conversations from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        letters = "bcdfghklmnprst"
        syllables = [c + v for c in letters for v in "aeiou"]
        rare = ["".join(self.random.choices(syllables, k=self.random.randint(1, 4))) for _ in range(5000)]
        self.english = COMMON_WORDS.split() * 60 + rare
        self.earlier: list[list[dict[str, str]]] = []

    def draw(self, shape: tuple[float, float], most: int) -> int:
        return min(most, 1 + int(self.random.lognormvariate(*shape)))

    def text(self, characters: int, words: list[str]) -> str:
        drawn = self.random.choices(words, k=max(1, characters // 5))
        for start in range(0, len(drawn), 14):
            drawn[start] = drawn[start].capitalize()
            drawn[min(start + 13, len(drawn) - 1)] += "."
        return " ".join(drawn)

    def paragraph(self, words: list[str]) -> str:
        kind = self.random.random()
        if kind < 0.7:
            return f"<p>{self.text(self.random.randint(80, 600), words)}</p>"
        if kind < 0.9:
            items = (self.text(60, words) for _ in range(self.random.randint(2, 8)))
            return (
                "<ol>"
                + "".join(f"<li><strong>Note</strong>: <code>x</code> {i}</li>" for i in items)
                + "</ol>"
            )
        lines = (f"    {w} = call({w}, &lt;{n}&gt;)" for n, w in enumerate(self.random.choices(words, k=12)))
        return CODE_BLOCK.format("python", "\n".join(lines))

    def answer(self, words: list[str]) -> str:
        body = "".join(self.paragraph(words) for _ in range(self.draw(Lengths.paragraphs, 40)))
        if self.random.random() < 0.004:
            body += f"<p>{NOTICE}</p>"
        return f'<div class="markdown prose w-full break-words dark:prose-invert light">{body}</div>'

    def turns(self) -> list[dict[str, str]]:
        words = self.english
        if self.random.random() < 0.2:
            words = FOREIGN[self.random.choice(sorted(FOREIGN))].split()
        turns = []
        for _ in range(self.draw(Lengths.exchanges, 80)):
            question = self.text(self.draw(Lengths.question, 20000), words)
            residue = "2 / 3" if self.random.random() < 0.02 else ""
            turns.append({"from": "human", "value": residue + question})
            turns.append({"from": "gpt", "value": self.answer(words)})
        shape = self.random.random()
        if shape < 0.03:
            return turns[1:]
        return turns[:-1] if shape < 0.1 else turns

    def conversation(self, number: int) -> dict[str, object]:
        kind = self.random.random()
        turns = self.random.choice(self.earlier) if self.earlier and kind < 0.05 else self.turns()
        if kind < 0.02:  # a near-duplicate: one more word at the end of the last turn
            turns = [
                *turns[:-1],
                {**turns[-1], "value": turns[-1]["value"] + " " + self.text(5, self.english)},
            ]
        if len(self.earlier) < 2000:
            self.earlier.append(turns)
        return {
            "id": f"{self.random.choice('abcdefg')}{number if kind < 0.99 else 0:07}",
            "conversations": turns,
        }


def generate(path: Path, count: int) -> None:
    """Write the file, unless it is there."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    writer, partial = Writer(42), path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        for number in range(count):
            file.write("[" if number == 0 else ",\n")
            file.write(json.dumps(writer.conversation(number), ensure_ascii=False))
        file.write("]\n")
    partial.replace(path)


def measured(*command: str) -> Cost:
    """Run a command. Raises CalledProcessError, with its errors shown, where it fails."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)
        peak = Peak(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - start
        memory = peak.end()
        if process.returncode:
            errors.seek(0)
            sys.stderr.write(errors.read().decode(errors="replace")[-2000:])
            raise subprocess.CalledProcessError(process.returncode, command)
    return Cost(wall, usage.ru_utime + usage.ru_stime, memory)


class Peak:
    """The largest sum of the resident memory of a process and its children, sampled in a thread."""

    def __init__(self, pid: int) -> None:
        self.pid, self.most, self._done = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            try:
                parent = psutil.Process(self.pid)
                family = [parent, *parent.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            self.most = max(self.most, sum(map(resident, family)))

    def end(self) -> int:
        self._done.set()
        self._thread.join()
        return self.most


def resident(process: psutil.Process) -> int:
    """Bytes of a process; 0 where it has ended."""
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def show(what: str, cost: Cost, count: int, floor: Cost | None) -> None:
    """One line of the table."""
    wall, cpu = (
        f"{a / b:5.1f} ×" if floor else " " * 7
        for a, b in zip(*map(times, (cost, floor or cost)), strict=True)
    )
    print(
        f"{what:<34}{cost.wall:7.1f} s {wall} {cost.cpu:7.1f} s CPU {cpu} {count / cost.cpu:8,.0f} /CPU s "
        f"{cost.memory / 2**20:7,.0f} MiB",
        flush=True,
    )


def times(cost: Cost) -> tuple[float, float]:
    return cost.wall, cost.cpu


def best(*command: str) -> Cost:
    """The least CPU of PEER_ROUNDS runs: a short run suffers most from a busy machine."""
    return min((measured(*command) for _ in range(PEER_ROUNDS)), key=lambda cost: cost.cpu)


def peer(python: str, part: Path, folder: Path, count: int) -> Cost | None:
    """FastChat's cleaning, and its language filter where that can be imported."""
    cleaned = folder / "fschat.json"
    cost = best(
        python, "-m", "fastchat.data.clean_sharegpt", "--in-file", str(part), "--out-file", str(cleaned)
    )
    show(f"fschat clean_sharegpt, {count:,}", cost, count, None)
    if subprocess.run([python, "-c", "import fastchat.data.optional_clean"], capture_output=True).returncode:
        print("fschat optional_clean (language): not importable, left out")
        return cost
    command = ("-m", "fastchat.data.optional_clean", "--in-file", str(cleaned), "--keep-lang", "en")
    more = best(python, *command, "--out-file", str(folder / "english.json"))
    show(f"fschat optional_clean, {count:,}", more, count, None)
    return Cost(cost.wall + more.wall, cost.cpu + more.cpu, max(cost.memory, more.memory))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--conversations", type=int, default=90_000)
    parser.add_argument("--keep", nargs="*", default=["human", "all"], choices=["human", "all"])
    parser.add_argument(
        "--processes", type=int, nargs="*", default=sorted({1, min(len(os.sched_getaffinity(0)), 4)})
    )
    parser.add_argument("--peer", help="python of an environment that has fschat")
    parser.add_argument("--peer-conversations", type=int, default=2000)
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "stillroom-extract-benchmark"
    )
    given = parser.parse_args()
    raw = given.work / f"{given.conversations}" / "sharegpt.json"
    part = given.work / f"{given.peer_conversations}" / "sharegpt.json"
    generate(raw, given.conversations)
    print(f"{given.conversations:,} conversations, {raw.stat().st_size / 1e9:.2f} GB")
    floor = measured(sys.executable, "-c", FLOOR, str(raw))
    show("orjson.loads of the file", floor, given.conversations, floor)
    ours = {}
    for keep in given.keep:
        for workers in given.processes:
            out = given.work / "out"
            cost = measured(sys.executable, "-c", RUN, str(raw.parent), str(out), keep, str(workers))
            ours[keep] = given.conversations / cost.cpu
            show(f"extract, keep {keep}, {workers} processes", cost, given.conversations, floor)
            print("   ", json.dumps(json.loads((out / "metrics").read_text())), flush=True)
    if given.peer is None:
        print("fschat: left out, see --peer")
        return
    generate(part, given.peer_conversations)
    theirs = peer(given.peer, part, given.work, given.peer_conversations)
    for keep, rate in ours.items():
        print(f"keep {keep}: {rate / (given.peer_conversations / theirs.cpu):.1f} × fschat per core")


if __name__ == "__main__":
    main()
