"""A folder of reports in the shapes that the stages write, with numbers drawn by a seed."""

import random

import pytest

from stillroom.artifacts import atomic_write, write_json, write_jsonl
from stillroom.benchmarks import BENCHMARKS
from stillroom.benchmarks.base import Sample
from stillroom.stages.evaluate import metrics

QUALITY = {"base": 0.25, "tuned": 0.8}
STAGES = {
    "extract": {
        "conversations": 229,
        "kept": 151,
        "dropped": {"duplicate": 12, "empty turn": 9, "language": 11, "rate limit": 5, "too short": 3},
    },
    "distill": {
        "conversations": 151,
        "turns": 244,
        "prompt_tokens": 31_204,
        "completion_tokens": 9_876,
        "bought_answers": 183,
        "bought_prompt_tokens": 24_000,
        "bought_completion_tokens": 8_000,
        "finish_reasons": {"length": 3, "stop": 241},
    },
    "mix": {
        "unit": "tokens",
        "tokens": 81_230,
        "sources": {
            "chat": {"target_share": 0.5, "share_of_tokens": 0.498, "tokens": 40_452, "examples": 151},
            "booksum": {"target_share": 0.25, "share_of_tokens": 0.251, "tokens": 20_389, "examples": 30},
            "mqa": {"target_share": 0.25, "share_of_tokens": 0.251, "tokens": 20_389, "examples": 44},
        },
        "lengths": {"total": 81_230, "p50": 133, "p90": 476, "max": 610},
    },
    "pack": {"rows": 82, "tokens": 81_230, "loss_tokens": 21_400, "density": 0.967},
    "train": {"steps": 240, "loss": 1.214, "validation_loss": 1.377, "tokens": 245_760},
}


def books(quality, draw):
    for i in range(9):
        size = draw.randint(8_000, 12_000)
        scores = {"tokens": size // 4, "bytes": size, "words": size // 6}
        for length, gain in ((128, 0.0), (256, 0.04), (512, 0.06)):
            scores[f"nll@{length}"] = size * (1.05 - 0.3 * quality - gain + draw.gauss(0, 0.01))
        yield Sample(f"book-{i}", f"book-{i}", "It was a grey morning on Hethay …", None, (), scores)


def chapters(quality, draw):
    for i in range(12):
        scores = {kind: max(0.0, draw.gauss(quality * 0.3, 0.05)) for kind in ("rouge1", "rouge2", "rougeL")}
        output = (
            "The keeper lights the lamp and waits for the boat." if quality > 0.5 else "the the lamp of of"
        )
        gold = ["The keeper of Northlight waits for a boat that is late."]
        prompt = f"[INST]\n{'The lamp burned on. ' * 300}\n\nSummarize the chapter above.\n[/INST]\n\n"
        scores |= {"rougeLsum": scores["rougeL"], "cut": 0.0}
        yield Sample(f"chapter-{i:02}", f"book-{i % 3}", prompt, output, gold, scores)


def questions(quality, draw):
    for i in range(24):
        for documents in (2, 4, 8):
            right = float(draw.random() < quality - 0.02 * documents)
            scores = {
                "accuracy": right,
                "documents": documents,
                "position": 25 * draw.randint(0, 4),
                "cut": 0.0,
            }
            output = "The market is held on Saturday." if right else "<b>I & you</b> do not know."
            prompt = f"[INST]\nDocument [1](Title: Merrow) …\n\nQuestion: When is market {i} held?\n[/INST]"
            yield Sample(f"q{i:02}-{documents}", f"q{i:02}", prompt, output, ["Saturday"], scores)
    note = "over-length: 1,900 prompt tokens and 32 for the answer, the model has 1,024 positions"
    yield Sample("q99-50", "q99", "[INST]\n…", None, ["blue"], {}, "skipped", note)


def documents(quality, draw):
    for i in range(20):
        right = float(draw.random() < quality * 0.9)
        scores = {"exact_match": right, "rouge_l": max(right, 0.3), "tagged": 1.0, "refused": 0.0, "cut": 0.0}
        output = "It says ##begin_quote##on Saturday##end_quote##.\n<ANSWER>: Saturday"
        yield Sample(f"raft-{i:02}", f"raft-{i:02}", "When is the market?", output, ["Saturday"], scores)


def tasks(quality, draw):
    for task in ("arc_challenge", "gsm8k"):
        for i in range(30):
            right = float(draw.random() < quality)
            scores = {"score": right, task: right}
            yield Sample(f"{task}/{i:02}", f"{task}/{i:02}", "Question: …", "B", ["B"], scores)
    yield Sample("mmlu/1", "mmlu/1", "Question: …", None, ["B"], {}, "skipped", "no log-probabilities")


RECIPE = "evaluate: {models: [base, tuned], benchmarks: [pg19, booksum, mqa, raft]}\n"
MAKERS = {"pg19": books, "booksum": chapters, "mqa": questions, "raft": documents}


@pytest.fixture(scope="session")
def write_item():
    """What evaluate writes of one model on one benchmark, by the model's quality and a seed."""

    def write(root, model, name, quality, seed=7):
        maker = {**MAKERS, "leaderboard": tasks}[name]
        examine(root, model, name, sorted(maker(quality, random.Random(seed)), key=lambda s: s.id))

    return write


@pytest.fixture
def reports(tmp_path, monkeypatch):
    """reports/{metrics,samples,figures} of two models and four benchmarks, in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(RECIPE)
    make(tmp_path / "reports")
    return tmp_path / "reports"


def make(root):
    for stage, figures in STAGES.items():
        write_json(root / f"metrics/{stage}.json", figures)
    dropped = (
        {"id": f"dirty-{i:03}", "reason": r, "detail": "2 / 3"} for i, r in enumerate(["page", "html"] * 4)
    )
    write_jsonl(root / "samples/extract-dropped.jsonl", dropped)
    draw = random.Random(1)
    rows = []
    for i in range(241):
        validation = f"{1.38 + 5 / (1 + i / 12):.4f}" if i % 40 == 0 else ""
        loss = 1.2 + 5 / (1 + i / 12) + draw.gauss(0, 0.08)
        rows.append(f"{i},{1024 * i},{loss:.4f},{validation},0.001,1.0")
    with atomic_write(root / "figures/train.csv") as file:
        file.write(("step,tokens,loss,validation_loss,lr,grad_norm\n" + "\n".join(rows) + "\n").encode())
    for model, quality in QUALITY.items():
        for name, maker in MAKERS.items():
            examine(root, model, name, sorted(maker(quality, random.Random(7)), key=lambda s: s.id))


def examine(root, model, name, samples):
    """What evaluate writes for one item."""
    write_jsonl(root / f"samples/{model}/{name}.jsonl", samples)
    settings = {"seed": 42, "chat_format": "inst", **BENCHMARKS[name]().model_dump()}
    label = {"stillroom": "0.1.0", "libraries": {"torch": "2.13.0", "peft": "0.21.2"}}
    label |= {"model": model[0] * 64, "data": "d" * 64, "settings": settings}
    write_json(root / f"samples/{model}/{name}.label.json", label)
    write_json(root / f"metrics/evaluate/{model}/{name}.json", metrics(BENCHMARKS[name](), samples))
