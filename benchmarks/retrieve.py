"""What retrieval over many passages costs: against bm25s in memory, and against parsing the passages.

    python benchmarks/retrieve.py [--passages 1000000] [--queries 2600] [--results 210] [--peer PYTHON]

Generated passages of 80 to 120 words and queries of 9, drawn by Zipf's law from 500,000 words, the most
frequent of which are English function words. Ours takes the passages into a collection on disk, indexes it,
and asks for the best of each query. bm25s tokenises, indexes and asks as its documentation does, all in
memory (`pip install bm25s orjson` in an environment of its own; left out where --peer is not given). The
floor parses the file and writes it again.

Seconds of wall clock and of CPU, each also as a multiple of the floor's; passages per CPU second; the largest
resident memory, pages of mapped files included; then seconds of CPU for each part, queries per CPU second,
and bytes on disk.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import orjson
from extract import COMMON_WORDS, Cost, measured, show

VOCABULARY = 500_000
WORDS = (80, 120)
"""of a passage"""
CHUNK = 20_000
"""passages that are drawn at a time"""
TIMED = """
import sys, time, orjson
passages, queries, results, work, out = sys.argv[1:]
seconds, start = {}, time.process_time()
def done(part):
    global start
    seconds[part], start = time.process_time() - start, time.process_time()
def lines(path):
    with open(path, "rb") as file:
        yield from map(orjson.loads, file)
"""
OURS = (
    TIMED
    + """
from pathlib import Path
from stillroom.collection import Wholes, collection
from stillroom.retrieval import Index
from stillroom.sources.question import Origin, Passage
with collection(Path(work)) as kept:
    for number, row in enumerate(lines(passages), 1):
        kept.add(Passage(row["title"], row["text"]), Origin("passages.jsonl", number))
    kept.settle()
    done("read")
    index = Index(Wholes(kept), Path(work) / "index")
    done("index")
    for query in lines(queries):
        index.hits(query, int(results))
    done("ask")
    disk = sum(path.stat().st_size for path in (Path(work) / "index").iterdir())
Path(out).write_bytes(orjson.dumps({**seconds, "disk": disk}))
"""
)
PEER = (
    TIMED
    + """
from pathlib import Path
import bm25s
texts = [row["title"] + " " + row["text"] for row in lines(passages)]
done("read")
index = bm25s.BM25()
index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
done("index")
asked = bm25s.tokenize(list(lines(queries)), return_ids=False, show_progress=False)
index.retrieve(asked, k=int(results), show_progress=False)
done("ask")
Path(out).write_bytes(orjson.dumps({**seconds, "disk": 0}))
"""
)
FLOOR = """
import sys, orjson
with open(sys.argv[1], "rb") as file, open(sys.argv[2], "wb") as out:
    for line in file:
        out.write(orjson.dumps(orjson.loads(line), option=orjson.OPT_APPEND_NEWLINE))
"""


class Writer:
    """Made-up texts from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        common = list(dict.fromkeys(COMMON_WORDS.lower().split()))[:40]
        self.words = common + [spelled(n) for n in range(VOCABULARY - len(common))]
        chances = np.cumsum(1 / np.arange(1, VOCABULARY + 1))
        self.chances = chances / chances[-1]

    def draw(self, count: int) -> list[str]:
        return [self.words[n] for n in np.searchsorted(self.chances, self.random.random(count)).tolist()]

    def passages(self, count: int) -> list[dict[str, str]]:
        lengths = self.random.integers(WORDS[0], WORDS[1] + 1, count)
        ends, words, titles = np.cumsum(lengths).tolist(), self.draw(int(lengths.sum())), self.draw(2 * count)
        return [
            {"title": " ".join(titles[2 * n : 2 * n + 2]), "text": " ".join(words[start:end])}
            for n, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
        ]


def spelled(number: int) -> str:
    """A word of its own for every number."""
    syllables = [c + v for c in "bcdfghklmnprstvwz" for v in "aeiou"]
    word, rest = "", number + len(syllables) ** 2
    while rest:
        rest, syllable = divmod(rest, len(syllables))
        word += syllables[syllable]
    return word


def generate(work: Path, passages: int, queries: int) -> None:
    """Write passages and queries, unless they are there."""
    if (work / "queries.jsonl").exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    writer = Writer(42)
    with (work / "passages.jsonl").open("wb") as file:
        for start in range(0, passages, CHUNK):
            rows = writer.passages(min(CHUNK, passages - start))
            file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
    asked = (orjson.dumps(" ".join(writer.draw(9)), option=orjson.OPT_APPEND_NEWLINE) for _ in range(queries))
    (work / "queries.jsonl").write_bytes(b"".join(asked))


def retrieved(what: str, python: str, code: str, work: Path, given: argparse.Namespace, floor: Cost) -> None:
    """One line of the table, and one about its parts."""
    files = (work / "passages.jsonl", work / "queries.jsonl", given.results, work / "kept", work / "out.json")
    cost = measured(python, "-c", code, *map(str, files))
    show(what, cost, given.passages, floor)
    parts = json.loads((work / "out.json").read_bytes())
    seconds = ", ".join(f"{part} {parts[part]:.1f} s" for part in ("read", "index", "ask"))
    rate = given.queries / parts["ask"]
    print(
        f"    CPU: {seconds}; {rate:,.0f} queries/s; index {parts['disk'] / 2**20:,.0f} MiB on disk",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=2600)
    parser.add_argument("--results", type=int, default=210)
    parser.add_argument("--peer", help="python of an environment that has bm25s")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "stillroom-retrieve-benchmark"
    )
    given = parser.parse_args()
    work = given.work / f"{given.passages}-{given.queries}"
    generate(work, given.passages, given.queries)
    size = (work / "passages.jsonl").stat().st_size
    print(
        f"{given.passages:,} passages, {size / 1e9:.2f} GB; {given.queries:,} queries, {given.results} "
        f"results; load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    floor = measured(sys.executable, "-c", FLOOR, str(work / "passages.jsonl"), str(work / "floor.jsonl"))
    (work / "floor.jsonl").unlink()
    show("orjson: parse, write", floor, given.passages, floor)
    retrieved("stillroom", sys.executable, OURS, work, given, floor)
    if given.peer:
        retrieved("bm25s, in memory", given.peer, PEER, work, given, floor)
    else:
        print("bm25s: left out, see --peer")


if __name__ == "__main__":
    main()
