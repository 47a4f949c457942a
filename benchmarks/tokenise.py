"""How fast conversations become token ids with a loss mask: ours, the usual `datasets.map`, and the floor.

    python benchmarks/tokenise.py [--data ../shared/data] [--rounds 3] [--processes 2]

Real text, no passage twice, is cut into conversations with ShareGPT's lengths and packed with a byte-level
tokenizer of 32,000 tokens trained on a part of it:

- ours: `stillroom.stages.pack.encoded`, from the mixture's file to files of ids and loss mask; with one
  process, and with more, there from the moment that each has given a batch (they take seconds to start);
- map: `datasets.map` row by row with `apply_chat_template(…, return_assistant_tokens_mask=True)`, as TRL does
  it, with as many processes, from a data set in memory; ChatML with {% generation %};
- batched: `datasets.map` in batches, a template without a mask, then the tokenizer on whole texts;
- floor: `tokenizers.encode_batch_fast` on the texts of the messages: ids only, no template, no mask.

Million tokens per second of wall clock, and per second of CPU of all processes, which a busy machine
stretches less. Rounds are interleaved; the median counts.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))
TEMPLATE = (
    "{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\\n' }}{%- if m['role'] == 'assistant' -%}"
    "{%- generation -%}{{ m['content'] + '<|im_end|>' }}{%- endgeneration -%}{{ '\\n' }}{%- else -%}"
    "{{ m['content'] + '<|im_end|>\\n' }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
EXCHANGES, QUESTION, ANSWER = (0.9, 0.85), (4.5, 1.3), (6.8, 0.8)
"""log-normal: mean and deviation of the logarithm; of the texts in characters"""


def passages(value: Any) -> Iterator[str]:
    """The long strings of a JSON value."""
    if isinstance(value, str) and len(value) > 200:
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from passages(inner)


def corpus(data: Path) -> str:
    """All text of a folder, every passage once."""
    found: dict[str, None] = {}
    for path in sorted(p for p in data.rglob("*") if p.is_file()):
        if path.suffix in (".txt", ".md", ".rst"):
            found[path.read_text(encoding="utf-8", errors="replace")] = None
        elif path.suffix in (".json", ".jsonl"):
            text = path.read_text(encoding="utf-8")
            try:
                rows = [json.loads(text)] if path.suffix == ".json" else map(json.loads, text.splitlines())
                found |= dict.fromkeys(passage for row in rows for passage in passages(row))
            except json.JSONDecodeError:
                continue
    shuffled = sorted(found)
    random.Random(1).shuffle(shuffled)
    return "\n\n".join(shuffled)


def conversations(text: str, most: int) -> Iterator[dict[str, Any]]:
    """The text as conversations, end to end."""
    draw, at = random.Random(2), 0

    def content(shape: tuple[float, float]) -> str:
        nonlocal at
        start, at = at, at + max(10, min(40_000, int(draw.lognormvariate(*shape))))
        return text[start:at]

    number = 0
    while at < min(most, len(text) - 400_000):
        messages = []
        for _ in range(max(1, min(20, int(draw.lognormvariate(*EXCHANGES))))):
            messages += [{"role": "user", "content": content(QUESTION)}]
            messages += [{"role": "assistant", "content": content(ANSWER)}]
        meta = {"origin": "chat"}
        yield {"id": f"c{number:07}", "source": "chat", "messages": messages, "meta": meta}
        number += 1


def prepare(work: Path, data: Path, characters: int) -> None:
    """Write the mixture and a tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    text = corpus(data)
    with (work / "train.jsonl").open("w", encoding="utf-8") as file:
        for row in conversations(text, characters):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=32_000, special_tokens=special, initial_alphabet=alphabet)
    backend.train_from_iterator([text[i : i + 5000] for i in range(0, 5_000_000, 5000)], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(work / "base")


def ours(work: Path, workers: int) -> tuple[int, float, float]:
    """Tokens and their seconds, wall and CPU, of the stage's own encoding."""
    from stillroom import processes
    from stillroom.stages import pack

    pack.SMALL = 0
    started: list[tuple[float, int]] = []
    in_order = processes.in_order

    def watched(*given: Any) -> Iterator[Any]:
        tokens = 0
        for lines, batch in in_order(*given):
            tokens += sum(len(ids) for ids, _ in batch.rows)
            started.append((time.perf_counter(), tokens))
            yield lines, batch

    processes.in_order = watched  # type: ignore[assignment]
    params = pack.Params(chat_format="chatml", context_length=2**20)
    packer, start, begun = pack.Packer(work / "base", params), time.perf_counter(), cpu()
    documents = pack.encoded(work / "train.jsonl", work / "out", packer, workers)
    tokens, seconds, used = sum(documents.lengths), time.perf_counter() - start, cpu() - begun
    if workers > 1:
        first, before = started[workers - 1]
        seconds = (started[-1][0] - first) * tokens / (tokens - before)
    return tokens, seconds, used


def mapped(work: Path, workers: int, batched: bool) -> tuple[int, float, float]:
    """The same of `datasets.map`."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import datasets
    from transformers import PreTrainedTokenizerFast

    datasets.disable_caching()
    datasets.disable_progress_bars()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "base")
    with (work / "train.jsonl").open(encoding="utf-8") as file:
        rows = datasets.Dataset.from_list([{"messages": json.loads(line)["messages"]} for line in file])

    def one(row: dict[str, Any]) -> dict[str, Any]:
        found = tokenizer.apply_chat_template(
            row["messages"], return_dict=True, return_assistant_tokens_mask=True
        )
        return {"input_ids": found["input_ids"], "assistant_masks": found["assistant_masks"]}

    def many(rows: dict[str, Any]) -> dict[str, Any]:
        texts = [tokenizer.apply_chat_template(m, tokenize=False) for m in rows["messages"]]
        return {"input_ids": tokenizer(texts, add_special_tokens=False)["input_ids"]}

    start, begun = time.perf_counter(), cpu()
    found = rows.map(many if batched else one, batched=batched, num_proc=workers, remove_columns=["messages"])
    seconds, used = time.perf_counter() - start, cpu() - begun
    return sum(map(len, found["input_ids"])), seconds, used


def floor(work: Path) -> tuple[int, float, float]:
    """The same of the tokenizer alone, with a thread per core."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(work / "base" / "tokenizer.json"))
    with (work / "train.jsonl").open(encoding="utf-8") as file:
        texts = [message["content"] for line in file for message in json.loads(line)["messages"]]
    start, begun = time.perf_counter(), cpu()
    found = [tokenizer.encode_batch_fast(texts[i : i + 2000]) for i in range(0, len(texts), 2000)]
    seconds, used = time.perf_counter() - start, cpu() - begun
    return sum(len(row.ids) for batch in found for row in batch), seconds, used


def cpu() -> float:
    """Seconds of CPU of this process and of its children that have ended."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of texts")
    parser.add_argument("--characters", type=int, default=40_000_000, help="most that are used")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=min(len(os.sched_getaffinity(0)), 8))
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    count = given.processes
    ways: dict[str, Callable[[Path], tuple[int, float, float]]] = {
        "ours, 1 process": lambda work: ours(work, 1),
        f"ours, {count} processes": lambda work: ours(work, count),
        f"datasets.map, {count} processes": lambda work: mapped(work, count, batched=False),
        f"datasets.map batched, no mask, {count} processes": lambda work: mapped(work, count, batched=True),
        "encode_batch_fast, no template (floor)": floor,
    }
    if given.run:
        print(json.dumps(ways[given.run](given.work)))
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), given.data, given.characters)
        compare(list(ways), Path(folder), given.rounds, count)


def compare(ways: list[str], work: Path, rounds: int, count: int) -> None:
    """Run every way in every round; print medians."""
    found: dict[str, list[tuple[int, float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name in ways:
            command = [
                sys.executable,
                __file__,
                "--run",
                name,
                "--work",
                str(work),
                "--processes",
                str(count),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr}")
            found[name].append(tuple(json.loads(done.stdout.splitlines()[-1])))
    for name, runs in found.items():
        wall, used = (statistics.median(tokens / run[i] / 1e6 for tokens, *run in runs) for i in (0, 1))
        print(
            f"{name:48} {runs[0][0] / 1e6:6.2f} Mtok  {wall:5.2f} Mtok/s  {used:5.2f} Mtok per CPU second",
            flush=True,
        )


if __name__ == "__main__":
    main()
