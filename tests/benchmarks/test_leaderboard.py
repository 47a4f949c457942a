"""The six tasks against lm-evaluation-harness itself, on a small Llama with random weights."""

import json
import os
import shutil
import sys
import threading
from array import array
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
import yaml
from transformers import LlamaForCausalLM

pytest.importorskip("lm_eval", reason="the extra `leaderboard` is not installed")
sys.path.insert(0, str(Path(__file__).parent))

import lm_eval as harness_package
from datasets import disable_progress_bars
from leaderboard_rows import ANIMALS, ROWS, SUBJECTS, TEXTS, write
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from stillroom import chat_format
from stillroom.artifacts import write_jsonl
from stillroom.benchmarks.findings import Findings
from stillroom.benchmarks.harness import definitions, models, tasks
from stillroom.benchmarks.leaderboard import TITLES
from stillroom.benchmarks.statistics import se_of_mean
from stillroom.endpoint_model import EndpointModel
from stillroom.errors import BudgetError, EndpointError, InputError, ParamsError
from stillroom.inference.generate import Generator
from stillroom.params import Endpoint, Sampling, Teacher
from stillroom.stages import evaluate
from stillroom.teacher.estimate import Range, of_item
from stillroom.teacher.requests import Request, answered, query, scored_tokens
from stillroom.training.tiny import build_model, build_tokenizer
from stillroom.training.tiny_recipe import TinyModel

FIXTURES = Path("data/fixtures/leaderboard").absolute()
SIZES = TinyModel(vocabulary=400, hidden_size=32, intermediate_size=48, layers=2, positions=1536)
SHOTS = {"arc_challenge": 25, "hellaswag": 10, "mmlu": 5, "truthfulqa_mc2": 0, "winogrande": 5, "gsm8k": 5}
METRICS = {
    "arc_challenge": "acc_norm,none",
    "hellaswag": "acc_norm,none",
    "mmlu": "acc,none",
    "truthfulqa_mc2": "acc,none",
    "winogrande": "acc,none",
    "gsm8k": "exact_match,strict-match",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose answers wander: its weights are larger than a fresh one's."""
    path = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer(TEXTS * 3, SIZES.vocabulary, chat_format.get("inst"))
    model = build_model(SIZES, tokenizer, seed=1)
    for weight in model.parameters():
        if weight.ndim == 2:
            weight.data *= 6
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def checkout(folder, tmp_path, monkeypatch):
    """A working folder with the model and all rows."""
    monkeypatch.chdir(tmp_path)
    prepare(folder)


def prepare(folder):
    Path("models").mkdir()
    Path("models/base").symlink_to(folder)
    write(Path("data/benchmarks/leaderboard"))


@pytest.fixture(scope="module")
def examined(folder, tmp_path_factory):
    """Metrics and samples of all tasks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("checkout"))
        prepare(folder)
        return examine()


def params(**block):
    return evaluate.Params(seed=42, chat_format="inst", batch_tokens=2048, leaderboard=block)


def examine(model="base", **block):
    """Run the item and read what it wrote."""
    paths = evaluate.Paths(model, "leaderboard")
    evaluate.run(paths, params(**block))
    samples = [json.loads(line) for line in paths.samples.read_text().splitlines()]
    return json.loads(paths.metrics.read_text()), samples


@pytest.fixture(scope="module")
def oracle(folder, tmp_path_factory):
    """What lm-eval says by itself: its own model class, row by row, over YAML written here."""
    disable_progress_bars()
    data, overlays = tmp_path_factory.mktemp("rows"), tmp_path_factory.mktemp("tasks")
    splits = {"arc_challenge": "test", "mmlu": "test", "gsm8k": "test"}
    for task, definition in definitions.DEFINITIONS.items():
        for name in [f"mmlu_{s}" for s in SUBJECTS] if task == "mmlu" else [task]:
            files = {}
            for split, part in (
                (splits.get(task, "validation"), ""),
                ("dev" if task == "mmlu" else "train", ".train"),
            ):
                rows = [r for r in ROWS.get(f"{task}{part}", []) if r.get("subject") in (None, name[5:])]
                if rows:
                    files[split] = str(data / f"{name}{part}.json")
                    Path(files[split]).write_text("\n".join(map(json.dumps, rows)))
            overlay = {
                "include": str(tasks.INSTALLED / definition.path.format(subject=name[5:])),
                "task": name,
                "dataset_path": "json",
                "dataset_name": None,
                "dataset_kwargs": {"data_files": files, "cache_dir": str(overlays / "cache")},
                "num_fewshot": SHOTS[task],
            }
            (overlays / f"{name}.yaml").write_text(yaml.safe_dump(overlay))
    group = {"group": "mmlu", "task": [f"mmlu_{s}" for s in SUBJECTS]}
    group["aggregate_metric_list"] = [{"metric": "acc", "weight_by_size": True}]
    (overlays / "mmlu.yaml").write_text(yaml.safe_dump(group))
    lm = HFLM(pretrained=Generator(folder).model, tokenizer=Generator(folder).tokenizer, batch_size=1)
    manager = TaskManager(include_defaults=False, include_path=str(overlays))
    return simple_evaluate(lm, tasks=list(TITLES), task_manager=manager, bootstrap_iters=100)


def test_the_figures_are_lm_evals_own(examined, oracle):
    metrics, samples = examined
    assert len(samples) == metrics["n"] == sum(len(ROWS[task]) for task in TITLES)
    for task, figure in METRICS.items():
        part = metrics["parts"][task]
        assert part["value"] == pytest.approx(oracle["results"][task][figure], abs=5e-7), task
        assert part["n"] == len(ROWS[task])
    assert metrics["headline"]["name"] == "mean of six"
    plain = [oracle["results"][task][figure] for task, figure in METRICS.items()]
    assert metrics["headline"]["value"] == pytest.approx(sum(plain) / 6, abs=1e-6)
    ses = metrics["standard_errors"]
    assert ses["score"] == pytest.approx(se_of_mean([ses[task] for task in TITLES]), abs=1e-6)
    subjects = [oracle["results"][f"mmlu_{subject}"]["acc,none"] for subject in SUBJECTS]
    assert metrics["mmlu_mean_of_subjects"] == pytest.approx(sum(subjects) / 2, abs=5e-7)
    flexible = oracle["results"]["gsm8k"]["exact_match,flexible-extract"]
    assert metrics["gsm8k_flexible"] == pytest.approx(flexible, abs=5e-7)


def test_every_question_has_lm_evals_prompt_answer_and_score(examined, oracle):
    found = {sample["id"]: sample for sample in examined[1]}
    for name, logged in oracle["samples"].items():
        task = name.partition("_")[0] if name.startswith("mmlu") else name
        metric, _, kept = METRICS[task].partition(",")
        for row in (row for row in logged if row["filter"] == kept):
            place = f"mmlu/{name[5:]}" if task == "mmlu" else task
            sample = found[f"{place}/{row['doc_id']:05}"]
            assert sample["scores"][task] == pytest.approx(float(row[metric]), abs=1e-6), sample["id"]
            assert sample["group"] == (place if task == "mmlu" else sample["id"])
            if task == "gsm8k":
                assert sample["output"] == row["resps"][0][0]
            elif task != "truthfulqa_mc2":
                assert (sample["output"] in sample["gold"]) == sample["scores"][task]
            if task != "winogrande":
                assert sample["prompt"] == row["arguments"][0][0]
    asked = found["winogrande/00001"]
    assert asked["prompt"].endswith(ROWS["winogrande"][1]["sentence"])
    assert asked["gold"] == ["The keeper met a heron 1 times, and a heron"]
    assert found["truthfulqa_mc2/00000"]["gold"] == ["No.", "It does not."]
    assert found["gsm8k/00001"]["gold"] == ["15"]
    assert found["mmlu/virology/00000"]["gold"] == ["C"]


def test_log_probabilities_are_those_of_the_hf_model(folder):
    long = " ".join(TEXTS[:200])
    pairs = [
        *((TEXTS[0], f" {letter}") for letter in "ABCD"),
        *((TEXTS[i], f" {animal} of the quay") for i, animal in enumerate(ANIMALS)),
        ("", "The keeper"),
        ("Ends with a blank ", "a gull"),
        (long, " a seal"),
    ]
    asked = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    generator = Generator(folder)
    theirs = HFLM(pretrained=generator.model, tokenizer=generator.tokenizer, batch_size=1)
    assert len(theirs.tok_encode(long)) > theirs.max_length
    expected = theirs.loglikelihood(asked, disable_tqdm=True)
    done = []
    for batch_tokens in (1, 300, 100_000):
        ours = models.Local(generator, batch_tokens, Findings(), done.append).loglikelihood(asked)
        assert [same for _, same in ours] == [same for _, same in expected]
        assert [score for score, _ in ours] == pytest.approx([score for score, _ in expected], rel=1e-4)
    assert sum(done) == 3 * len(pairs)


def test_a_batch_that_does_not_fit_is_run_in_halves(folder, monkeypatch):
    asked = [Instance("loglikelihood", {}, (text, " a gull"), i) for i, text in enumerate(TEXTS[:8])]
    generator, original = Generator(folder), models.Local._logprobs

    def small(self, batch, counts):
        if len(batch) > 2:
            raise torch.OutOfMemoryError
        return original(self, batch, counts)

    def local():
        return models.Local(generator, 100_000, Findings(), lambda _: None)

    expected = local().loglikelihood(asked)
    monkeypatch.setattr(models.Local, "_logprobs", small)
    assert [s for s, _ in local().loglikelihood(asked)] == pytest.approx([s for s, _ in expected], rel=1e-5)


def test_prompts_longer_than_the_positions_are_counted(checkout, tmp_path):
    short = Path("models/short")
    shutil.copytree(Path("models/base").resolve(), short)
    config = json.loads((short / "config.json").read_text()) | {"max_position_embeddings": 400}
    (short / "config.json").write_text(json.dumps(config))
    metrics, samples = examine("short", tasks=["arc_challenge", "winogrande"])
    cut = {sample["id"].partition("/")[0] for sample in samples if "truncated" in sample["scores"]}
    assert cut == {"arc_challenge"}
    assert metrics["truncated"] == len(ROWS["arc_challenge"])
    assert metrics["headline"]["name"] == "mean of 2 of six tasks"


def test_the_limit_takes_the_first_questions_of_each_task_and_subject(checkout):
    _, samples = examine(limit=2, tasks=["mmlu", "winogrande"])
    assert [sample["id"] for sample in samples] == [
        "mmlu/anatomy/00000",
        "mmlu/anatomy/00001",
        "mmlu/virology/00000",
        "winogrande/00000",
        "winogrande/00001",
    ]


def outs(model):
    paths = evaluate.Paths(model, "leaderboard")
    return [path.read_bytes() for path in (paths.samples, paths.label, paths.metrics)]


def test_a_run_that_is_interrupted_goes_on_and_another_model_gets_nothing_of_it(checkout, monkeypatch):
    other = Path("models/other")
    shutil.copytree(Path("models/base").resolve(), other)
    model = LlamaForCausalLM.from_pretrained(other)
    model.lm_head.weight.data.mul_(-1)
    model.save_pretrained(other)
    block = {"tasks": ["mmlu", "truthfulqa_mc2", "winogrande"]}
    original, batches, stop_at = models.Local._logprobs, [], 0

    def counted(self, batch, counts):
        batches.append(len(batch))
        if len(batches) == stop_at:
            raise KeyboardInterrupt
        return original(self, batch, counts)

    monkeypatch.setattr(models.Local, "_logprobs", counted)
    for name in ("base", "other"):
        examine(name, **block)
    whole, expected = len(batches) // 2, {name: outs(name) for name in ("base", "other")}
    assert whole > 3
    assert expected["base"][0] != expected["other"][0]
    batches.clear()
    stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        examine("base", **block)
    stop_at = 0
    examine("other", **block)
    assert len(batches) == 3 + whole
    examine("base", **block)
    assert len(batches) == 3 + whole + whole - 2
    assert {name: outs(name) for name in ("base", "other")} == expected
    assert not list(Path(".stillroom/work").glob("evaluate-*"))


def test_the_label_pins_the_definitions(checkout):
    examine(tasks=["winogrande"])
    label = json.loads(evaluate.Paths("base", "leaderboard").label.read_text())
    assert label["lm_eval"] == metadata.version("lm_eval")
    assert label["definitions"] == {"winogrande": definitions.DEFINITIONS["winogrande"].sha256}


def test_another_definition_is_refused(checkout, monkeypatch):
    pinned = replace(definitions.DEFINITIONS["gsm8k"], sha256="0" * 64)
    monkeypatch.setitem(definitions.DEFINITIONS, "gsm8k", pinned)
    with pytest.raises(ParamsError, match=r"gsm8k\.yaml.*otherwise than the pinned"):
        examine(tasks=["gsm8k"])
    examine(tasks=["winogrande"], limit=1)


def test_nothing_is_written_beside_the_package(checkout):
    """lm-eval's cache of requests lies there by default."""
    folder = Path(harness_package.__file__).parent / "caching"
    before = set(folder.rglob("*"))
    examine(tasks=["winogrande"], limit=1)
    assert set(folder.rglob("*")) == before
    assert os.environ["LM_HARNESS_CACHE_PATH"]


class Handler(BaseHTTPRequestHandler):
    """POST /v1/completions with `echo` and `logprobs`, as vLLM answers it, by a model in this process."""

    generator: Generator
    lock = threading.Lock()
    tells = True
    credit = 1_000_000
    """how many requests it answers"""
    bought: list[dict]
    """those that it has answered"""
    room = 1_000_000
    """tokens of the longest prompt that it takes"""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["Authorization"] == "Bearer sk-away"
        assert self.path == "/v1/completions"
        with self.lock:
            status, document = self.served(body)
            self.bought += [body] * (status == 200)
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def served(self, body):
        if len(self.bought) >= self.credit:
            return 402, {"error": {"message": "no credit"}}
        if len(body["prompt"]) > self.room:
            return 400, {"error": {"message": "too long", "code": "context_length_exceeded"}}
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": 1}
        return 200, {"choices": [self.choice(body["prompt"], body)], "usage": usage}

    def choice(self, ids, body):
        head = {"index": 0, "text": "", "finish_reason": "length"}
        if not body.get("echo"):
            sampling = Sampling(max_tokens=body["max_tokens"], temperature=0, stop=body["stop"])
            [done] = self.generator.generate([ids], sampling, end=self.generator.ends(None))
            return head | {"text": done.text, "finish_reason": done.finish_reason}
        if not self.tells:
            return head | {"logprobs": None}
        with torch.inference_mode():
            logprobs = self.generator.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        given = [None, *logprobs[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0].tolist(), 0.0]
        top = [None, *({"": best} for best in logprobs.max(-1).values.tolist())]
        return head | {"logprobs": {"token_logprobs": given, "top_logprobs": top}}

    def log_message(self, *_):
        pass


@pytest.fixture
def away(checkout, tmp_path, monkeypatch):
    """An endpoint that serves the checkout's model, and its handler."""
    monkeypatch.setenv("AWAY_KEY", "sk-away")
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "cache"))
    handler = type("Served", (Handler,), {"generator": Generator(Path("models/base")), "bought": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        name(server.server_port)
        yield handler
        server.shutdown()


def name(port, **settings):
    url = f"http://127.0.0.1:{port}/v1"
    described = {"base_url": url, "model": "m", "api": "completions", "api_key_env": "AWAY_KEY"} | settings
    EndpointModel(**described).write(Path("models/away"))


def test_a_model_at_an_endpoint_has_the_same_figures(away):
    block = {"tasks": ["mmlu", "winogrande", "gsm8k"]}
    _, expected = examine("base", **block)
    metrics, found = examine("away", tokenizer="models/base", **block)
    assert metrics["skipped"] == 0
    for ours, theirs in zip(found, expected, strict=True):
        assert {k: ours[k] for k in ("id", "prompt", "output", "scores")} == {
            k: theirs[k] for k in ("id", "prompt", "output", "scores")
        }


TWO = {"tasks": ["winogrande", "gsm8k"], "tokenizer": "models/base"}
PRICE = {"m": {"prompt": 1000.0, "completion": 2000.0}}


def test_no_answer_is_bought_twice(away, tmp_path, monkeypatch):
    away.credit = 9
    with pytest.raises(EndpointError, match="402"):
        examine("away", **TWO)
    away.credit = 1_000_000
    expected = examine("away", **TWO)
    bought = [json.dumps(body) for body in away.bought]
    assert len(bought) == len(set(bought)) == 1 + 2 * len(ROWS["winogrande"]) + len(ROWS["gsm8k"])
    folder = evaluate.Paths("away", "leaderboard").files
    whose = [json.loads(line) for line in (folder / "model-requests.jsonl").read_text().splitlines()]
    assert [row["id"] for row in whose] == [sample["id"] for sample in expected[1]]
    assert sorted(len(row["keys"]) for row in whose) == [1] * len(ROWS["gsm8k"]) + [2] * len(
        ROWS["winogrande"]
    )
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "another machine's"))
    away.credit = 0
    assert examine("away", **TWO) == expected


def test_what_is_asked_of_an_endpoint_is_known_before(away):
    evaluated = {"models": ["away"], "benchmarks": ["leaderboard"], "leaderboard": TWO}
    common = {"seed": 42, "chat_format": "inst"}
    recipe = {"common": common, "endpoint": {"prices": PRICE}, "evaluate": evaluated}
    Path("params.yaml").write_text(yaml.safe_dump(recipe))
    before = of_item("away", "leaderboard")
    assert not away.bought
    examine("away", **TWO)
    count, generated = len(away.bought), len(ROWS["gsm8k"])
    assert before.requests == Range(count, count)
    tokens = sum(len(body["prompt"]) for body in away.bought)
    assert before.prompt_tokens == Range(tokens, tokens)
    assert before.completion_tokens == Range(
        count - generated + generated * 64, count - generated + generated * 256
    )
    assert before.cost.low == pytest.approx((tokens * 1000 + before.completion_tokens.low * 2000) / 1e6)
    after = of_item("away", "leaderboard")
    assert (after.cached, after.requests) == (count, Range(0, 0))


def test_the_cap_holds_for_all_tasks_together(away):
    endpoint = Endpoint(prices=PRICE, max_cost=2.8, max_in_flight=1)
    run = evaluate.Params(seed=42, chat_format="inst", batch_tokens=2048, endpoint=endpoint, leaderboard=TWO)
    with pytest.raises(BudgetError):
        evaluate.run(evaluate.Paths("away", "leaderboard"), run)
    spent = sum(len(body["prompt"]) * 1000 + 2000 for body in away.bought) / 1e6
    assert 1 < spent <= 2.8


def test_a_prompt_that_the_endpoint_turns_away_is_counted(away):
    away.room = 200
    metrics, found = examine("away", **TWO)
    assert (metrics["n"], metrics["skipped"]) == (len(ROWS["winogrande"]), len(ROWS["gsm8k"]))
    for sample in found:
        assert (
            (sample["output"] is None)
            == sample["id"].startswith("gsm8k")
            == ("over-length" in sample["note"])
        )


def test_an_answer_without_the_scores_that_were_asked_for_is_none():
    asked = Request((), models.GREEDY, tokens=array("i", [5, 6, 7]), scored=2)
    sent = query(asked, Teacher(model="m"), "m", chat_format.get("inst"), 42)
    top = [None, {"": -1.0}, {"": -2.0, "x": -1.5}, {"": 0.0}, {"": 0.0}]

    def row(own):
        logprobs = {"token_logprobs": own, "top_logprobs": top[: len(own)]}
        choice = {"index": 0, "text": "", "finish_reason": "length", "logprobs": logprobs}
        return answered(sent, json.dumps({"choices": [choice]}).encode(), {})

    assert scored_tokens(row([None, -1.0, -2.0, 0.0]).text) == ([-1.0, -2.0], [-1.0, -1.5])
    assert row([None, -1.0, -2.0]).text == row([None, -1.0, -2.0, 0.0]).text
    assert "-1.5" not in row([None, -1.0, -2.0]).response
    for own in ([None, -1.0], [None, None, -2.0], [None, -1.0, -1.0, -2.0, 0.0], []):
        with pytest.raises(EndpointError, match="no log-probabilities of the prompt"):
            row(own)
    other = query(replace(asked, scored=1), Teacher(model="m"), "m", chat_format.get("inst"), 42)
    assert other.body == sent.body
    assert other.key != sent.key


def test_an_endpoint_without_log_probabilities_of_prompts_is_skipped_with_a_note(away):
    away.tells = False
    metrics, found = examine("away", tokenizer="models/base", tasks=["winogrande", "gsm8k"])
    assert (metrics["n"], metrics["skipped"]) == (len(ROWS["gsm8k"]), len(ROWS["winogrande"]))
    notes = {sample["note"] for sample in found if sample["status"] == "skipped"}
    assert notes == {"the endpoint gives no log-probabilities of prompts (it answers 200)"}
    assert metrics["headline"]["name"] == "mean of 1 of six tasks"


@pytest.mark.parametrize(
    ("settings", "block", "note"),
    [({"api": "chat"}, {"tokenizer": "models/base"}, "chat"), ({}, {}, "leaderboard.tokenizer")],
)
def test_what_cannot_be_asked_at_all_is_skipped(checkout, settings, block, note):
    name(9, **settings)
    metrics, found = examine("away", tasks=["winogrande", "gsm8k"], **block)
    assert (metrics["n"], metrics["skipped"]) == (0, len(found))
    assert metrics["headline"]["value"] is None
    assert all(note in sample["note"] for sample in found)
    assert found[0]["prompt"]


def test_an_endpoint_that_is_not_there_is_named(checkout):
    name(9)
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1:9.*cannot be reached"):
        examine("away", tokenizer="models/base", tasks=["gsm8k"])


def test_the_tiny_recipes_questions_are_those_of_all_six_tasks(checkout):
    data = Path("data/benchmarks/leaderboard")
    shutil.rmtree(data)
    data.symlink_to(FIXTURES)
    metrics, samples = examine()
    counts = {task: sum(s["id"].startswith(f"{task}/") for s in samples) for task in SHOTS}
    assert counts == {task: len((FIXTURES / f"{task}.jsonl").read_text().splitlines()) for task in SHOTS}
    assert (metrics["n"], metrics["failed"], metrics["skipped"]) == (len(samples), 0, 0)


def test_too_few_examples_are_named(checkout):
    write_jsonl(Path("data/benchmarks/leaderboard/winogrande.train.jsonl"), ROWS["winogrande.train"][:5])
    with pytest.raises(InputError, match="winogrande has 5 few-shot examples, and its definition draws 6"):
        examine(tasks=["winogrande"])
    Path("data/benchmarks/leaderboard/winogrande.train.jsonl").unlink()
    with pytest.raises(InputError, match="winogrande has no file of few-shot examples"):
        examine(tasks=["winogrande"])


def test_the_hubs_files_are_read_where_they_lie(checkout):
    _, expected = examine(tasks=["arc_challenge", "mmlu"])
    data = Path("data/benchmarks/leaderboard")
    for name, place in {
        "arc_challenge": "ARC-Challenge/test",
        "arc_challenge.train": "ARC-Challenge/train",
        "mmlu": "all/test",
        "mmlu.train": "all/dev",
    }.items():
        path = data / f"{place}-00000-of-00001.parquet"
        path.parent.mkdir(exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS[name]), path)
        (data / f"{name}.jsonl").unlink()
    assert examine(tasks=["arc_challenge", "mmlu"])[1] == expected
