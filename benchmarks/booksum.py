"""What `booksum` costs: memory and time, against counting the tokens of the same texts alone.

    python benchmarks/booksum.py [--megabytes 100 1000] [--work FOLDER]

Generated books of 30 chapters (log-normal, 28,000 characters on average) with three summaries each come as
BookSum's alignments with their texts, as one CSV table and as prompts, a third of the examples each.
Megabytes are those of the examples: a chapter with three summaries counts thrice. The tokenizer is a
byte-level one of 32,000 tokens that learns from the texts; tokens are counted for the first size only.

Seconds of wall clock and of CPU, also as multiples of counting's, examples per CPU second, and the largest
resident memory of all processes together.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from extract import measured, show
from mix import TOKENS, Writer, train

CHAPTERS, SUMMARIES = 30, 3
LENGTH = 28_000
FIELDS = ("bid", "source", "book_id", "summary_path", "chapter", "summary_text")
SPLITS = ("train", "train", "train", "train", "train", "train", "train", "train", "dev", "test")
RUN = """
import sys
from pathlib import Path
from stillroom.stages.booksum import Params, Paths, run
work = Path(sys.argv[1])
out = work / "out"
run(Paths(work / "chapters", work / "base", out / "train.jsonl", out / "benchmark", out / "metrics.json"),
    Params(requests=["Sum up.", "A chapter:\\n\\n{chapter}\\n\\nSum it up."], summary_tokens=(8, None)))
"""


class Chapter(NamedTuple):
    """One of a book's chapters, with its summaries."""

    book: int
    number: int
    text: str
    summaries: list[str]


def books(writer: Writer, size: int) -> Iterator[list[Chapter]]:
    """Books until their examples have so many characters."""
    book = 0
    while size > 0:
        chapters = []
        for number in range(CHAPTERS):
            text = writer.text(min(20.0, writer.random.lognormvariate(0, 1) / 1.65) * LENGTH)
            chapters.append(Chapter(book, number, text, [writer.text(1200) for _ in range(SUMMARIES)]))
            size -= SUMMARIES * (len(text) + 1200)
        yield chapters
        book += 1


def generate(work: Path, size: int) -> int:
    """Write the examples, their tokenizer, and the texts that are counted; return how many there are."""
    writer, folder = Writer(42), work / "chapters"
    folder.mkdir(parents=True)
    names = (f"chapter_summary_aligned_{split}_split.jsonl" for split in ("train", "val", "test"))
    alignments = dict(zip(("train", "dev", "test"), ((folder / n).open("w") for n in names), strict=True))
    files = {split: (folder / f"{split}.csv").open("w", newline="") for split in alignments}
    tables = {split: csv.DictWriter(file, FIELDS) for split, file in files.items()}
    for table in tables.values():
        table.writeheader()
    count = 0
    with (folder / "prompts.jsonl").open("w") as prompts, (work / "counted.jsonl").open("w") as counted:
        for chapters in books(writer, size):
            for chapter in chapters:
                split = SPLITS[chapter.book // 3 % 10]
                title = f"Book {chapter.book}"
                path = f"all_chapterized_books/{chapter.book}-chapters/{chapter.number:02}.txt"
                if chapter.book % 3 == 0:
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    (folder / path).write_text(chapter.text)
                for source, summary in enumerate(chapter.summaries):
                    told = f"finished_summaries/{source}/{title}/section_{chapter.number}_part_0.txt"
                    row = {"bid": chapter.book, "source": source, "summary_path": told}
                    row["book_id"] = f"{title}.chapter {chapter.number}"
                    if chapter.book % 3 == 0:
                        (folder / told).parent.mkdir(parents=True, exist_ok=True)
                        (folder / told).write_text(json.dumps({"summary": [summary]}))
                        alignments[split].write(json.dumps(row | {"chapter_path": path}) + "\n")
                    elif chapter.book % 3 == 1:
                        tables[split].writerow(row | {"chapter": chapter.text, "summary_text": summary})
                    else:
                        prompt = f"{chapter.text}\n\nSummarise the text above."
                        prompts.write(json.dumps({"prompt": prompt, "completion": summary}) + "\n")
                    messages = [{"content": chapter.text}, {"content": summary}]
                    counted.write(json.dumps({"messages": messages}) + "\n")
                    count += 1
    for file in (*alignments.values(), *files.values()):
        file.close()
    train(work, writer.sentences[::4])
    return count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--work", type=Path, default=None, help="default: a temporary folder")
    given = parser.parse_args()
    floor = None
    for megabytes in given.megabytes:
        with tempfile.TemporaryDirectory(dir=given.work) as folder:
            work = Path(folder)
            count = generate(work, megabytes * 1_000_000)
            print(f"{count:,} examples, {megabytes:,} MB, load {os.getloadavg()[0]:.1f}", flush=True)
            first = megabytes == given.megabytes[0]
            if first:
                counting = (TOKENS, str(work / "base/tokenizer.json"), str(work / "counted.jsonl"))
                floor = measured(sys.executable, "-c", *counting)
                show("tokenizers: count tokens", floor, count, floor)
            cost = measured(sys.executable, "-c", RUN, str(work))
            show("booksum", cost, count, floor if first else None)
            print("   ", json.dumps(json.loads((work / "out/metrics.json").read_bytes())), flush=True)


if __name__ == "__main__":
    main()
