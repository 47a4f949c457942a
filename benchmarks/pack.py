"""How full packing makes rows, and how fast: ours against TRL's `pack_dataset`, and the lower bound.

    python benchmarks/pack.py [--peer FOLDER/bin/python] [--data ../shared/data] [--rounds 3]

Lengths: recipe A's mix by tokens (chat 50 %, chapters 25 %, many documents 25 %), drawn; and where --data has
them, the real conversations and chapters, tokenised with a tokenizer like the tiny recipe's. Ours plans all
rows at once (`stillroom.packing`), and writes them with `stillroom.stages.pack.write_rows`. TRL (`pip install
trl` in an environment of its own with datasets; left out where --peer is not given) packs each 1000 documents
of a data set in memory and moves their tokens; strategy bfd. Documents per second of CPU, fastest of
the rounds; full: tokens in the rows / the rows' capacity; bound: rows over the fewest possible (Martello and
Toth's L2).
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from stillroom.packing import best_fit_decreasing, lower_bound  # noqa: E402
from stillroom.stages import pack  # noqa: E402

PEER = """
import sys, time, warnings
warnings.filterwarnings("ignore")
import datasets, numpy as np, pyarrow as pa
from trl import pack_dataset
datasets.disable_progress_bars(); datasets.disable_caching()
lengths = np.load(sys.argv[1]); capacity = int(sys.argv[2])
offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
values = pa.array(np.zeros(int(lengths.sum()), np.int32))
table = pa.table({"input_ids": pa.LargeListArray.from_arrays(offsets, values)})
rows = datasets.Dataset(table)
start = time.process_time()
packed = pack_dataset(rows, capacity, "bfd")
seconds = time.process_time() - start
kept = sum(len(row) for batch in packed.with_format("arrow").iter(100) for row in batch["input_ids"])
print(seconds, len(packed), kept)
"""


def mixed(count: int, capacity: int) -> list[int]:
    """Lengths of a chat mix with long documents."""
    draw = random.Random(7)
    kinds = ((6.8, 1.2, 0.93), (9.3, 0.6, 0.034), (9.2, 0.9, 0.036))
    weights = [share for _, _, share in kinds]
    drawn = draw.choices(kinds, weights, k=count)
    return [min(capacity, max(8, int(draw.lognormvariate(mean, wide)))) for mean, wide, _ in drawn]


def real(data: Path, capacity: int) -> list[int]:
    """Lengths of the real conversations and chapters that fit."""
    from stillroom import chat_format
    from stillroom.records import Message
    from stillroom.training.tiny import build_tokenizer

    chat = chat_format.get("inst")
    fixtures = (ROOT / "data" / "fixtures").glob("*.json*")
    texts = [path.read_text(encoding="utf-8") for path in sorted(fixtures)]
    tokenizer = build_tokenizer(texts, 2048, chat)
    roles: dict[str, Any] = {"human": "user", "gpt": "assistant", "system": "system"}
    dump = json.loads((data / "sharegpt" / "dummy_conversation.json").read_bytes())
    talks = [[Message(roles[t["from"]], t["value"]) for t in row["conversations"]] for row in dump]
    for line in (data / "chapters" / "chapters.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        talks.append([Message("user", row["chapter"]), Message("assistant", row["summary"])])
    lengths = [len(row.ids) for row in chat_format.encode(chat, tokenizer, talks)]
    print(f"real: {sum(n > capacity for n in lengths)} of {len(lengths)} are longer than a row")
    return [length for length in lengths if length <= capacity]


def fastest(work: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """Seconds of the fastest round, and its result."""
    found = []
    for _ in range(rounds):
        start = time.process_time()
        result = work()
        found.append((time.process_time() - start, result))
    return min(found, key=lambda pair: pair[0])


def show(name: str, seconds: float, lengths: Sequence[int], rows: int, kept: int, capacity: int) -> None:
    """One line of figures."""
    bound = lower_bound(lengths, capacity)
    print(
        f"{name:34} {len(lengths) / seconds / 1e3:9,.0f}K documents/s  {rows:7,} rows"
        f"  {kept / rows / capacity:8.3%} full  {rows / bound - 1:+8.3%} over the bound"
        f"  {sum(lengths) - kept:,} tokens cut",
        flush=True,
    )


def write(lengths: Sequence[int], rows: Sequence[Sequence[int]]) -> float:
    """Seconds of writing rows of such documents."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("ids", "learn")]
        np.zeros(sum(lengths), np.int32).tofile(files[0])
        np.zeros(sum(lengths), np.bool_).tofile(files[1])
        names = [f"c{number:07}" for number in range(len(lengths))]
        documents = pack.Documents(*files, names=names, lengths=array("q", lengths))
        start = time.process_time()
        pack.write_rows(Path(folder, "rows.parquet"), documents, rows)
        return time.process_time() - start


def peer(python: str, lengths: Sequence[int], capacity: int) -> tuple[float, int, int]:
    """Seconds, rows and tokens of TRL."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "lengths.npy"), np.array(lengths))
        command = [python, "-c", PEER, str(Path(folder, "lengths.npy")), str(capacity)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the peer failed:\n{done.stderr}")
    seconds, rows, kept = done.stdout.split()[-3:]
    return float(seconds), int(rows), int(kept)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--part", type=int, default=20_000, help="documents whose tokens are moved too")
    parser.add_argument("--capacity", type=int, default=32_768)
    parser.add_argument("--peer", help="python of an environment that has trl and datasets")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    everything = mixed(given.documents, given.capacity)
    samples = {"all": everything, "part": everything[: given.part]}
    if given.data.is_dir():
        samples["real"] = real(given.data, given.capacity)
    for name, lengths in samples.items():
        used = sum(lengths)
        print(f"{name}: {len(lengths):,} documents, {used / 1e6:,.1f} Mtok")

        def plan(lengths: Sequence[int] = lengths) -> list[list[int]]:
            return best_fit_decreasing(lengths, given.capacity)

        seconds, rows = fastest(plan, given.rounds)
        show("  ours, planning", seconds, lengths, len(rows), used, given.capacity)
        if name == "all":
            continue
        both = seconds + min(write(lengths, rows) for _ in range(given.rounds))
        show("  ours, planning and writing", both, lengths, len(rows), used, given.capacity)
        if given.peer is None:
            print("  trl: left out, see --peer")
            continue
        theirs = min(peer(given.peer, lengths, given.capacity) for _ in range(given.rounds))
        show("  trl pack_dataset bfd", theirs[0], lengths, *theirs[1:], given.capacity)


if __name__ == "__main__":
    main()
