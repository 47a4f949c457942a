"""How fast and how carefully `stillroom distill` asks a teacher, beside other clients and the floor.

    python benchmarks/teacher.py throughput|faults|limits|kill|warm|memory [--quick]

All against benchmarks/mock_teacher.py, a process of its own with a fixed latency; ours is the whole command,
`stillroom distill` in an empty folder with an empty cache. A run's seconds are those between its first
request and its last answer at the server; CPU is user + system of the client and its children from the first
request to its end, outputs written; `start` runs from the process's start to its first request, `end` from
the last answer to its exit. Rounds are interleaved, so that a busy machine disturbs all alike.
"""

from __future__ import annotations

import argparse
import bisect
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import psutil
import yaml
from peers.conversations import SAMPLING

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "peers"
SAMPLE_SECONDS = 0.1
"""between two looks at a client's memory and CPU"""
WORDS = ("explain", "compare", "table", "history", "function", "model", "query", "token", "chapter", "recipe")
WORDS_PER_TURN = 150
"""about 1 KB"""
REQUEST_TOKENS = 540
"""of a prompt and its answer, about; each client's requests are a little longer or shorter"""
SLOTS = 100
"""requests at a time that a server of limited capacity takes"""


@dataclass(frozen=True)
class Client:
    """A program to measure: the script of `peers`, or ours where there is none."""

    name: str
    script: str | None = None
    venv: str | None = None
    """name of the option that gives its virtual environment"""
    multi_turn: bool = True
    sequential: bool = False


OURS = Client("stillroom distill")
FLOOR = Client("bare aiohttp (floor)", "bare")
UNTYPED = Client("openai post, no cache", "sdk_untyped")
TYPED = Client("openai create", "sdk_typed")
TYPED_AIOHTTP = Client("openai create, aiohttp", "sdk_typed_aiohttp")
CURATOR = Client("curator", "with_curator", "curator", multi_turn=False)
DISTILABEL = Client("distilabel", "with_distilabel", "distilabel", multi_turn=False)
SEQUENTIAL = Client("requests + SQLite", "sequential", sequential=True)
ONE_PASS = Client("one pass in memory (floor)", "rerun")
CLIENTS = (FLOOR, OURS, UNTYPED, TYPED_AIOHTTP, TYPED, CURATOR, DISTILABEL, SEQUENTIAL)


@dataclass(frozen=True)
class Cell:
    """What is asked, and of which server."""

    conversations: int
    turns: int = 1
    in_flight: int = 64
    latency: float = 0.1
    """seconds"""
    scenario: tuple[tuple[str, Any], ...] = ()
    """more of the server's settings"""
    endpoint: tuple[tuple[str, Any], ...] = ()
    """more of our settings"""

    @property
    def requests(self) -> int:
        return self.conversations * self.turns

    def __str__(self) -> str:
        latency = f"{self.latency * 1000:g} ms"
        return f"{latency}, {self.in_flight} in flight, {self.turns}-turn, {self.requests:,} requests"


@dataclass(frozen=True)
class Run:
    """One measured run."""

    seconds: float
    start: float
    end: float
    wall: float
    cpu: float
    """seconds"""
    rss: float
    """most MB, all processes together"""
    failure: str | None
    """exit code and the client's last words, where it did not end well"""
    counts: dict[str, Any]

    @property
    def rate(self) -> float:
        """Different answers a second."""
        return float(self.counts["distinct"]) / self.seconds

    @property
    def twice(self) -> int:
        return int(self.counts["bought"] - self.counts["distinct"])


class Server:
    """The mock teacher."""

    def __init__(self, url: str) -> None:
        self.url = url

    def begin(self, cell: Cell) -> None:
        """Behave so, and count anew."""
        self._ask("PUT", "/scenario", {"latency": cell.latency, **dict(cell.scenario)})

    def counts(self) -> dict[str, Any]:
        return self._ask("GET", "/counts")

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else orjson.dumps(body)
        request = urllib.request.Request(self.url + path, data, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as response:
            return orjson.loads(response.read())


@contextmanager
def mock_teacher() -> Iterator[Server]:
    """The server, in a process of its own."""
    command = [sys.executable, str(ROOT / "benchmarks" / "mock_teacher.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Server(process.stdout.readline().strip())
        finally:
            process.kill()


class Bench:
    """Folder, server and options of one benchmark."""

    def __init__(self, folder: Path, server: Server, options: argparse.Namespace) -> None:
        self.folder, self.server, self.options = folder, server, options
        self._number = 0

    def clients(self, wanted: Sequence[Client]) -> list[Client]:
        """Those of the wanted ones that are there."""
        found = []
        for client in wanted:
            if client.venv and not self.python(client).is_file():
                print(f"{client.name}: skipped, give its virtual environment as --{client.venv} VENV")
            elif not self.options.only or any(name in client.name for name in self.options.only):
                found.append(client)
        return found

    def python(self, client: Client) -> Path:
        """The interpreter that has the client's library."""
        venv = getattr(self.options, client.venv) if client.venv else None
        return Path(venv or "-") / "bin" / "python" if client.venv else Path(sys.executable)

    def work(self, cell: Cell) -> Path:
        """A new folder with what is to be asked: our stage's input, and the drivers' file."""
        self._number += 1
        work = self.folder / str(self._number)
        (work / "data/interim").mkdir(parents=True)
        with (
            (work / "data/interim/conversations.jsonl").open("wb") as ours,
            (work / "turns").open("wb") as rest,
        ):
            for number, turns in enumerate(questions(cell)):
                messages = [{"role": "user", "content": turn} for turn in turns]
                record = {"id": f"c-{number:06}", "source": "benchmark", "messages": messages, "meta": {}}
                ours.write(orjson.dumps(record) + b"\n")
                rest.write(orjson.dumps(turns) + b"\n")
        (work / "params.yaml").write_text(yaml.safe_dump(self.params(cell)))
        return work

    def params(self, cell: Cell) -> dict[str, Any]:
        """Our settings: what is sent is what the other clients send."""
        return {
            "common": {"teacher": {"model": "mock-teacher"}},
            "endpoint": {
                "base_url": f"{self.server.url}/v1",
                "max_in_flight": cell.in_flight,
                **dict(cell.endpoint),
            },
            "distill": {"sampling": {**SAMPLING, "top_k": None, "repetition_penalty": None}},
        }

    def command(self, client: Client, cell: Cell) -> list[str]:
        """What to start in a work folder."""
        if client.script is None:
            return [sys.executable, "-m", "stillroom", "distill"]
        script = str(PEERS / f"{client.script}.py")
        return [str(self.python(client)), script, f"{self.server.url}/v1", "turns", str(cell.in_flight)]

    def measure(self, client: Client, cell: Cell, work: Path | None = None) -> Run:
        """Run a client to its end, in a new folder or in `work`."""
        folder = work or self.work(cell)
        self.server.begin(cell)
        run = watched(self.start(client, cell, folder), self.server, folder / "log")
        if work is None:
            shutil.rmtree(folder)
        return run

    def start(self, client: Client, cell: Cell, work: Path) -> psutil.Popen:
        """Start a client; what it says goes to a file."""
        source = str(ROOT / "src")
        environment = {**os.environ, "PYTHONPATH": source, "STILLROOM_CACHE": str(work / "cache")}
        with (work / "log").open("ab") as log:
            return psutil.Popen(
                self.command(client, cell), cwd=work, env=environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip


def questions(cell: Cell) -> Iterator[list[str]]:
    """The user turns of each conversation, about 1 KB each, all different."""
    draw = random.Random(1)
    for number in range(cell.conversations):
        yield [f"#{number}.{t} {' '.join(draw.choices(WORDS, k=WORDS_PER_TURN))}" for t in range(cell.turns)]


def watched(process: psutil.Popen, server: Server, log: Path) -> Run:
    """Wait for a client; note its CPU and its memory meanwhile."""
    started = time.monotonic()
    moments, spent, rss = [started], [0.0], 0.0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        cpu, memory = use(process)
        moments.append(time.monotonic())
        spent.append(cpu)
        rss = max(rss, memory)
        time.sleep(SAMPLE_SECONDS)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.monotonic() - started
    counts = server.counts()
    first = counts["first_request"] or started
    last = counts["last_answer"] or started + wall
    before = spent[max(0, bisect.bisect_right(moments, first) - 1)]
    return Run(
        seconds=last - first,
        start=first - started,
        end=started + wall - last,
        wall=wall,
        cpu=usage.ru_utime + usage.ru_stime - before,
        rss=rss / 1e6,
        failure=f"exit {process.returncode}: {last_line(log)}" if process.returncode else None,
        counts=counts,
    )


def use(process: psutil.Popen) -> tuple[float, float]:
    """CPU seconds and resident bytes of a process and its descendants."""
    cpu = memory = 0.0
    try:
        for member in [process, *process.children(recursive=True)]:
            times = member.cpu_times()
            cpu += times.user + times.system
            memory += member.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return cpu, memory


def middle(values: Sequence[float]) -> float:
    return statistics.median(values)


def throughput(bench: Bench) -> None:
    """Requests a second, of the floor in the same round; CPU; memory."""
    for cell in cells(bench.options):
        clients = [c for c in bench.clients(CLIENTS) if c.multi_turn or cell.turns == 1]
        runs: dict[Client, list[Run]] = {client: [] for client in clients}
        for _ in range(bench.options.rounds):
            for client in clients:
                runs[client].append(bench.measure(client, asked_by(client, cell)))
        print(f"\n{cell}")
        head = ("req/s best", "median", "of floor", "CPU ms", "MB", "start s", "end s")
        print(f"{'':24}" + "".join(f"{name:>11}" for name in head))
        for client in clients:
            show_throughput(client, runs[client], runs.get(FLOOR))


def show_throughput(client: Client, runs: list[Run], floor: list[Run] | None) -> None:
    """One row: shares are of the floor in the same round, their median."""
    share = middle([run.rate / other.rate for run, other in zip(runs, floor, strict=True)]) if floor else 0.0
    cpu = middle([run.cpu / max(1, run.counts["distinct"]) for run in runs]) * 1000
    rates = [run.rate for run in runs]
    print(
        f"{client.name:24}{max(rates):11,.0f}{middle(rates):11,.0f}{share:11.3f}"
        f"{cpu:11.2f}{max(r.rss for r in runs):11.0f}{min(r.start for r in runs):11.2f}"
        f"{min(r.end for r in runs):11.2f}{failed(runs)}"
    )


def failed(runs: Sequence[Run]) -> str:
    """A remark where a client did not end well."""
    return "".join(f"  {failure}" for failure in sorted({run.failure for run in runs if run.failure}))


def last_line(log: Path) -> str:
    """What a client said last, cut short."""
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip()[:80] for line in reversed(lines) if line.strip()), "")


def asked_by(client: Client, cell: Cell) -> Cell:
    """A sequential client is measured on a few seconds' work."""
    if not client.sequential:
        return cell
    few = max(8, int(5 / cell.latency) // cell.turns)
    return Cell(min(cell.conversations, few), cell.turns, cell.in_flight, cell.latency)


def cells(options: argparse.Namespace) -> list[Cell]:
    """The scenarios: those named in the goals, or with --all every combination."""
    if options.all:
        combined = [
            (latency, in_flight, turns)
            for latency in (0.02, 0.1, 1.0)
            for in_flight in (64, 256, 512)
            for turns in (1, 4)
        ]
    else:
        combined = [(0.1, 64, 1), (0.1, 256, 1), (0.1, 256, 4), (0.02, 64, 1), (1.0, 512, 4)]
    chosen = [
        (latency, in_flight, turns)
        for latency, in_flight, turns in combined
        if (options.latency or latency) == latency and (options.in_flight or in_flight) == in_flight
        if (options.turns or turns) == turns
    ]
    least = 1000 if options.quick else 4000
    return [
        Cell(max(least // turns, 2 * in_flight), turns, in_flight, latency)
        for latency, in_flight, turns in chosen
    ]


def faults(bench: Bench) -> None:
    """A faulty server: everything answered, each once, in which time."""
    shares = {"429": 0.05, "500": 0.05, "reset": 0.05, "slow": 0.02}
    calm = Cell(1500 if bench.options.quick else 20_000)
    rough = Cell(calm.conversations, scenario=(("faults", shares),))
    clients = bench.clients((OURS, UNTYPED, CURATOR, DISTILABEL))
    runs: dict[Client, list[tuple[Run, Run]]] = {client: [] for client in clients}
    for _ in range(bench.options.rounds):
        for client in clients:
            runs[client].append((bench.measure(client, calm), bench.measure(client, rough)))
    print(f"{calm}; {', '.join(f'{share:.0%} {name}' for name, share in shares.items())}")
    print(f"{'':24}{'calm s':>9}{'faulty s':>9}{'ratio':>7}{'lost':>6}{'twice':>6}   ratio of each round")
    for client, pairs in runs.items():
        ratios = [rough.seconds / calm.seconds for calm, rough in pairs]
        lost = max(calm.requests - rough.counts["distinct"] for _, rough in pairs)
        print(
            f"{client.name:24}{middle([calm.seconds for calm, _ in pairs]):9.2f}"
            f"{middle([rough.seconds for _, rough in pairs]):9.2f}{middle(ratios):7.2f}{lost:6}"
            f"{max(rough.twice for _, rough in pairs):6}   {' '.join(f'{ratio:.2f}' for ratio in ratios)}"
            f"{failed([rough for _, rough in pairs])}"
        )


def limits(bench: Bench) -> None:
    """A server with limits: how much of them is used, and how many requests are refused."""
    per_minute, amount = 6000.0, 1000 if bench.options.quick else 6000
    budgets = {"requests_per_minute": per_minute, "tokens_per_minute": per_minute * REQUEST_TOKENS}
    in_flight = bench.options.in_flight or 64
    clients = bench.clients((OURS, UNTYPED, CURATOR))
    print(f"{'limit':22}{'headers':14}{'':24}{'of limit':>9}{'refused':>9}{'lost':>6}{'twice':>6}")
    for name, limit in budgets.items():
        for headers in ("x-ratelimit", "retry-after", "none"):
            cell = Cell(amount, in_flight=in_flight, scenario=((name, limit), ("headers", headers)))
            for client in clients:
                show_limit((name, headers, client.name), cell, bench.measure(client, cell), limit / 60)
        known = replace(cell, endpoint=((name, limit),))
        show_limit((name, "none", "ours, told the limit"), known, bench.measure(OURS, known), limit / 60)
    for headers in ("retry-after", "none"):
        cell = Cell(2 * amount, in_flight=256, scenario=(("slots", SLOTS), ("headers", headers)))
        for client in clients:
            labels = (f"{SLOTS} at a time", headers, client.name)
            show_limit(labels, cell, bench.measure(client, cell), SLOTS / cell.latency, saved=0.0)


def show_limit(
    labels: tuple[str, str, str], cell: Cell, run: Run, allowed: float, saved: float = 1.0
) -> None:
    """One row: the share of what the server let through in that time, `allowed` requests or tokens a second
    and `saved` seconds' worth at the start."""
    counts = run.counts
    used = counts["tokens" if labels[0] == "tokens_per_minute" else "distinct"]
    share = used / (allowed * (run.seconds + saved))
    refused = counts["refused"] / (counts["refused"] + counts["bought"])
    lost = cell.requests - counts["distinct"]
    print(
        f"{labels[0]:22}{labels[1]:14}{labels[2]:24}{share:9.3f}{refused:9.1%}{lost:6}{run.twice:6}"
        f"{failed([run])}",
        flush=True,
    )


def kill(bench: Bench) -> None:
    """kill -9 at random moments: what is bought twice, and whether the outputs are the same."""
    kills = 5 if bench.options.quick else 20
    cell = Cell(kills * 150, turns=4)
    whole, work = bench.work(cell), bench.work(cell)
    bench.measure(OURS, cell, whole)
    draw = random.Random(3)
    bench.server.begin(cell)
    for _ in range(kills):
        process = bench.start(OURS, cell, work)
        stop = bench.server.counts()["bought"] + draw.randint(1, 500)
        while bench.server.counts()["bought"] < stop and process.poll() is None:
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    watched(bench.start(OURS, cell, work), bench.server, work / "log")
    counts = bench.server.counts()
    names = ("distilled.jsonl", "instructions.jsonl", "distill-answers.parquet")
    same = all(
        (whole / "data/interim" / n).read_bytes() == (work / "data/interim" / n).read_bytes() for n in names
    )
    print(f"{cell}, {kills} times kill -9")
    print(f"bought twice      {counts['bought'] - counts['distinct']:6}")
    print(f"in flight, killed {counts['dropped']:6}   most that may be: {kills * cell.in_flight}")
    print(f"never bought      {cell.requests - counts['distinct']:6}")
    print(f"outputs           {'as of an uninterrupted run' if same else 'DIFFERENT'}")


def warm(bench: Bench) -> None:
    """A rerun of 19K conversations whose answers are all cached."""
    cell = Cell(2000 if bench.options.quick else 19_000, turns=3, in_flight=256, latency=0.0)
    work = bench.work(cell)
    cold = bench.measure(OURS, cell, work)
    print(f"{cell}\ncold: {cold.wall:.1f} s, {cold.rate:,.0f} req/s, {cold.rss:.0f} MB{failed([cold])}")
    rounds = [
        (bench.measure(ONE_PASS, cell, work), bench.measure(OURS, cell, work))
        for _ in range(bench.options.rounds)
    ]
    floor, ours = zip(*rounds, strict=True)
    print(f"{'':28}{'s, each round':32}{'median':>8}{'CPU s':>8}{'MB':>6}{'asked':>7}")
    for client, runs in ((ONE_PASS, floor), (OURS, ours)):
        seconds = [run.wall for run in runs]
        print(
            f"{client.name:28}{' '.join(f'{s:.2f}' for s in seconds):32}{middle(seconds):8.2f}"
            f"{middle([run.cpu for run in runs]):8.2f}{max(run.rss for run in runs):6.0f}"
            f"{max(run.counts['bought'] for run in runs):7}{failed(runs)}"
        )
    print(f"of the floor: {middle([b.wall / a.wall for a, b in rounds]):.2f} times")


def memory(bench: Bench) -> None:
    """Memory by the number of conversations."""
    print(f"{'conversations':>14}{'MB cold':>9}{'MB warm':>9}{'input MB':>9}{'req/s':>8}")
    for conversations in (500, 5000) if bench.options.quick else (2000, 20_000):
        cell = Cell(conversations, turns=3, in_flight=256, latency=0.0)
        work = bench.work(cell)
        size = (work / "data/interim/conversations.jsonl").stat().st_size / 1e6
        cold, again = bench.measure(OURS, cell, work), bench.measure(OURS, cell, work)
        print(
            f"{conversations:14,}{cold.rss:9.0f}{again.rss:9.0f}{size:9.0f}{cold.rate:8,.0f}"
            f"{failed([cold, again])}",
            flush=True,
        )
        shutil.rmtree(work)


BENCHMARKS: dict[str, Callable[[Bench], None]] = {
    f.__name__: f for f in (throughput, faults, limits, kill, warm, memory)
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("--quick", action="store_true", help="less work, one round")
    parser.add_argument("--rounds", type=int, help="default: 3, with --quick 1")
    parser.add_argument("--only", nargs="*", help="clients, by a part of their name")
    parser.add_argument("--all", action="store_true", help="throughput: every combination")
    parser.add_argument("--latency", type=float, help="throughput: only so many seconds")
    parser.add_argument("--in-flight", type=int, help="throughput: only so many; limits: so many")
    parser.add_argument("--turns", type=int, help="throughput: only so many")
    parser.add_argument("--curator", help="virtual environment with bespokelabs-curator")
    parser.add_argument("--distilabel", help="virtual environment with distilabel[openai] and requests")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    with tempfile.TemporaryDirectory() as folder, mock_teacher() as server:
        BENCHMARKS[options.benchmark](Bench(Path(folder), server, options))


if __name__ == "__main__":
    main()
