import json
import random
from dataclasses import asdict
from pathlib import Path

import orjson
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stillroom import chat_format
from stillroom.endpoint_model import EndpointModel
from stillroom.errors import InputError, ParamsError
from stillroom.params import Price, Sampling, Teacher
from stillroom.records import Conversation, Message, write_conversations
from stillroom.stages import STAGES, distill, raft
from stillroom.teacher.cache import Cache, Row
from stillroom.teacher.estimate import (
    ENOUGH,
    EXAMINED,
    INPUTS,
    NOTHING,
    TRAINED,
    Range,
    items,
    of_item,
    of_stage,
    of_training,
)
from stillroom.teacher.prices import cost
from stillroom.teacher.requests import Request, answer, asking, query

CHAT = chat_format.get("inst")
TEACHER = Teacher(model="mock")
SAMPLING = Sampling(max_tokens=100, temperature=0.0)
GREEDY = Sampling(max_tokens=200, temperature=0, top_p=1.0, top_k=None, repetition_penalty=None)
PRICE = Price(prompt=1.0, completion=4.0)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with params and a cache of its own."""
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    recipe()
    return tmp_path


def recipe(*, teacher=TEACHER, endpoint=None, raft=None, evaluate=None, train=None, **block):
    """Write params.yaml: a teacher that nobody can reach, and its price."""
    prices = {"mock": PRICE.model_dump()}
    document = {
        "common": {"teacher": teacher.model_dump()},
        "endpoint": {"base_url": "http://127.0.0.1:9/v1", "prices": prices} | (endpoint or {}),
        "distill": {"sampling": SAMPLING.model_dump(), **block},
        "raft": raft or {},
        "evaluate": evaluate or {},
        "train": train or {},
    }
    Path("params.yaml").write_text(yaml.safe_dump(document))


def conversations(turns):
    """Write one conversation for each list of human turns."""
    rows = [
        Conversation(f"c{i:05}", "test", tuple(Message("user", text) for text in texts), {})
        for i, texts in enumerate(turns)
    ]
    write_conversations(distill.Paths().conversations, rows)
    return rows


def row_of(request, text, finish_reason="stop", tokens=None, seed=42, teacher=TEACHER):
    """What a teacher would have left in the cache."""
    made = query(request, teacher, "mock", CHAT, seed)
    prompt = round(len(orjson.dumps(request.messages)) / 3.7)
    return Row(made.key, made.text, text, finish_reason, prompt, tokens or max(1, len(text) // 4))


def bought(dialogues, respond, store=lambda row: True):
    """Drive dialogues to their ends with a teacher in this process; the rows by key, some in the cache."""
    rows = {}
    for dialogue in dialogues:
        try:
            request = dialogue.send(None)
            while True:
                row = row_of(request, **respond(request))
                rows.setdefault(row.key, row)
                request = dialogue.send(answer(rows[row.key], cached=False))
        except StopIteration:
            pass
    with Cache() as cache:
        for row in rows.values():
            if store(row):
                cache.store(row)
    return rows


def distilling():
    from stillroom import params

    return distill.dialogues(distill.Paths().conversations, params.load("distill", distill.Params))()


def test_all_stages_that_ask_are_known():
    import importlib

    blocks = {name: importlib.import_module(f"stillroom.stages.{name}").Params for name in STAGES}
    asking = {name for name, block in blocks.items() if "endpoint" in block.shared_blocks}
    assert {*INPUTS, EXAMINED, TRAINED} == asking - {"report"}  # which says what was spent


def test_without_answers_lengths_are_assumed_and_contexts_grow(checkout):
    rows = conversations([["a" * 400], ["b" * 400, "c" * 400, "d" * 400]])
    found = of_stage("distill")
    assert (found.dialogues, found.cached, found.requests) == (2, 0, Range(4, 4))
    assert found.completion_tokens == Range(4 * 25, 4 * 100)
    human = len(orjson.dumps(rows[0].messages))
    asked = human * (1 + 1 + 2 + 3)  # an answer's own brackets weigh little beside this
    assert found.prompt_tokens.low == pytest.approx(asked / 4 + 25 * (1 + 2), rel=0.1)
    assert found.prompt_tokens.high == pytest.approx(asked / 3 + 100 * (1 + 2), rel=0.1)
    assert found.cost.high == pytest.approx(cost(PRICE, found.prompt_tokens.high, 400), rel=0.01)
    assert any("assumed" in line for line in found.basis)


def test_what_the_cache_holds_is_not_asked(checkout):
    conversations([["a", "b"], ["c"], ["d", "e", "f"]])
    bought(distilling(), lambda request: {"text": "Yes."})
    found = of_stage("distill")
    assert asdict(found) == asdict(NOTHING) | {"dialogues": 3, "cached": 6}


def test_a_conversation_goes_on_from_the_answers_it_has(checkout):
    conversations([["first", "second", "third"]])
    bought(distilling(), lambda r: {"text": "Yes."}, lambda row: "third" not in row.request)
    found = of_stage("distill")
    assert (found.cached, found.requests) == (2, Range(1, 1))


@settings(max_examples=8)
@given(st.lists(st.tuples(st.text("abc", min_size=1, max_size=2), st.booleans()), min_size=1))
def test_every_distinct_request_is_either_there_or_to_be_asked(tmp_path_factory, turns):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("checkout")
        patch.setenv("STILLROOM_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        recipe()
        conversations([[text] for text, _ in turns])
        there = {text for text, is_there in turns if is_there}
        bought(
            distilling(),
            lambda r: {"text": "Yes."},
            lambda row: json.loads(row.request)["body"]["messages"][0]["content"] in there,
        )
        found = of_stage("distill")
    missing = {text for text, _ in turns} - there
    assert (found.cached, found.requests) == (len(there), Range(len(missing), len(missing)))


def test_the_truth_lies_between_low_and_high_once_there_are_answers(checkout):
    draw = random.Random(3)
    conversations(
        [[draw.randbytes(draw.randint(10, 400)).hex() for _ in range(draw.randint(1, 5))] for _ in range(300)]
    )

    def respond(request):
        tokens = min(100, round(draw.lognormvariate(3.2, 0.8)) + 1)
        cut = tokens == 100
        return {"text": "word " * tokens, "tokens": tokens, "finish_reason": "length" if cut else "stop"}

    early = {c.messages[0].content for c in distilling_first(60)}
    rows = bought(
        distilling(), respond, lambda row: json.loads(row.request)["body"]["messages"][0]["content"] in early
    )
    found = of_stage("distill")
    with Cache() as cache:
        missing = [row for row in rows.values() if row.key not in cache]
    assert len(missing) > 500
    assert found.cached == len(rows) - len(missing)
    assert any("10th and 90th percentile" in line for line in found.basis)
    truth = {
        "requests": len(missing),
        "prompt_tokens": sum(row.prompt_tokens for row in missing),
        "completion_tokens": sum(row.completion_tokens for row in missing),
    }
    truth["cost"] = cost(PRICE, truth["prompt_tokens"], truth["completion_tokens"])
    for name, value in truth.items():
        assert getattr(found, name).low <= value <= getattr(found, name).high, name


def distilling_first(count):
    from stillroom.records import read_conversations

    return list(read_conversations(distill.Paths().conversations))[:count]


def test_few_answers_or_answers_under_other_settings_tell_no_lengths(checkout):
    conversations([[f"turn {i}"] for i in range(ENOUGH + 10)])
    first = {f"turn {i}" for i in range(ENOUGH - 1)}
    bought(distilling(), lambda r: {"text": "Yes."}, lambda row: any(f'"{t}"' in row.request for t in first))
    assert of_stage("distill").completion_tokens.high == 11 * 100
    recipe(sampling={"max_tokens": 50, "temperature": 0.0})
    assert of_stage("distill").completion_tokens.high == (ENOUGH + 10) * 50


def test_answers_of_a_teacher_that_is_asked_in_its_own_words_tell_lengths(checkout):
    own = Teacher(
        model="mock", limit_field="max_completion_tokens", extra={"temperature": None, "top_p": 0.5}
    )
    recipe(teacher=own)
    conversations([[f"turn {i}"] for i in range(ENOUGH + 10)])
    first = {f"turn {i}" for i in range(ENOUGH)}
    respond = {"text": "Yes.", "tokens": 7, "teacher": own}
    bought(distilling(), lambda r: respond, lambda row: any(f'"{t}"' in row.request for t in first))
    assert of_stage("distill").completion_tokens == Range(70, 70)


def test_the_batch_share_and_a_missing_price(checkout):
    conversations([["one"], ["two"]])
    online = of_stage("distill").cost
    recipe(endpoint={"backend": "batch"})
    assert of_stage("distill").cost.high == pytest.approx(online.high * PRICE.batch_share)
    recipe(endpoint={"prices": {}})
    assert of_stage("distill").cost is None
    recipe(endpoint={"prices": {}, "max_cost": 1.0})
    with pytest.raises(ParamsError, match="needs the price of 'mock'"):
        of_stage("distill")


def test_the_embedded_teacher_costs_nothing(checkout):
    conversations([["one"]])
    recipe(endpoint={"base_url": None, "prices": {}})
    document = yaml.safe_load(Path("params.yaml").read_text())
    Path("params.yaml").write_text(yaml.safe_dump(document | {"common": {}}))
    found = of_stage("distill")
    assert (found.requests, found.cost) == (Range(1, 1), Range(0, 0))


def test_original_answers_cost_nothing_and_an_absent_input_is_said(checkout):
    with pytest.raises(InputError, match="no such file"):
        of_stage("distill")
    recipe(answers="original")
    assert of_stage("distill") == NOTHING


@pytest.fixture
def passages(checkout):
    """Documents of one passage each, and how many."""
    folder = raft.Paths().documents
    folder.mkdir(parents=True)
    for i in range(8):
        (folder / f"{i}.txt").write_text(
            f"Passage {i}. " + f"It tells of the {i}th river and its banks. " * 4
        )
    recipe(raft={"questions_per_chunk": 3})
    return 8


def rafting():
    from stillroom import params

    return raft.dialogues(raft.Paths().documents, params.load("raft", raft.Params))()


def test_questions_about_passages_are_counted_between_one_and_the_most(passages):
    found = of_stage("raft")
    assert (found.dialogues, found.cached) == (passages * 3, 0)
    assert found.requests == Range(passages * (1 + 1), passages * (1 + 3))


def test_documents_are_read_once(passages, monkeypatch):
    read, calls = raft.read_documents, []
    monkeypatch.setattr(raft, "read_documents", lambda *a, **k: calls.append(a) or read(*a, **k))
    assert of_stage("raft").dialogues == passages * 3
    assert len(calls) == 1


def test_raft_counts_what_a_run_asks(passages):
    """The list of each passage once, and the three answers."""

    def respond(request):
        text = request.messages[0].content
        own = text[8]
        is_answer = "Question:" in text
        return {"text": "Yes." if is_answer else f"1. What is {own}?\n2. Why {own}?\n3. Which river?"}

    rows = bought(rafting(), respond)
    assert len(rows) == passages + 3 * passages
    assert of_stage("raft").requests == Range(0, 0)
    some = of_stage("raft").cached
    assert some == len(rows)


def test_an_answer_that_is_missing_between_others_is_one_request(passages):
    def respond(request):
        text = request.messages[0].content
        return {
            "text": "Yes." if "Question:" in text else f"What is {text[8]}?\nWhy {text[8]}?\nHow {text[8]}?"
        }

    bought(rafting(), respond, lambda row: "Why 3?" not in row.request or "Question:" not in row.request)
    assert of_stage("raft").requests == Range(1, 1)


@pytest.fixture
def judged(checkout):
    """Recipes with a judge of other prices, and nine instructions."""
    rows = [{"instruction": f"Do {i}.", "output": "x" * 400} for i in range(9)]
    put = Path("data/benchmarks/alpaca_eval/set.json")
    put.parent.mkdir(parents=True)
    put.write_bytes(orjson.dumps(rows))

    def judging(*, scoring="verdict", swap=False, **block):
        endpoint = {"prices": {"gpt": {"prompt": 10.0, "completion": 30.0}, "mock": PRICE.model_dump()}}
        judge = {"model": "gpt", "scoring": scoring, "order_swap": swap}
        evaluate = {"benchmarks": ["pg19", "mqa", "alpaca_eval"], "alpaca_eval": {"judge": judge, **block}}
        recipe(endpoint=endpoint, evaluate=evaluate)

    return judging


@pytest.mark.parametrize("scoring", ["verdict", "logprobs"])
def test_a_judge_is_asked_once_or_twice_about_every_answer(judged, scoring):
    judged(scoring=scoring)
    once = of_item("base", "alpaca_eval")
    assert (once.dialogues, once.cached, once.requests) == (9, 0, Range(9, 9))
    assert once.prompt_tokens.low > 9 * 2 * 400 / 4
    assert once.cost.high == pytest.approx((once.prompt_tokens.high * 10 + 9 * 16 * 30) / 1e6)
    assert any("as long as the right ones" in line for line in once.basis)
    judged(scoring=scoring, swap=True, limit=4)
    assert of_item("base", "alpaca_eval").requests == Range(8, 8)
    assert items() == [(model, "alpaca_eval") for model in ("base", "tuned")]


def test_without_a_judge_nothing_is_asked_or_it_is_named(judged):
    assert of_item("base", "mqa") == of_item("base", "raft") == NOTHING
    assert items() == []
    with pytest.raises(ParamsError, match=r"evaluate\.alpaca_eval\.judge"):
        of_item("base", "alpaca_eval")


def test_a_model_at_an_endpoint_is_asked_and_its_judge(judged, checkout):
    judged(max_tokens=200, limit=6)
    model = EndpointModel(base_url="http://127.0.0.1:9/v1", model="mock")
    model.write(checkout / "models/tuned")
    (checkout / "data/benchmarks/pg19").mkdir()
    found, judge = of_item("tuned", "alpaca_eval"), of_item("base", "alpaca_eval")
    assert (found.dialogues, found.requests) == (12, Range(12, 12))
    assert found.completion_tokens == Range(6 * (200 / 4 + 16 / 4), 6 * (200 + 16))
    own = found.prompt_tokens.high - judge.prompt_tokens.high
    assert found.cost.high == pytest.approx(judge.cost.high + cost(PRICE, own, 6 * 200), rel=0.01)
    assert found.basis[0].startswith("model: ")
    asked = [Request((Message("user", f"Do {i}."),), GREEDY) for i in range(9)]
    bought(map(asking, asked), lambda r: {"text": "Done."})
    assert of_item("tuned", "alpaca_eval").requests == judge.requests == Range(6, 6)
    assert asdict(of_item("tuned", "pg19")) == asdict(NOTHING) | {
        "basis": ["what pg19 asks of an endpoint is not counted"]
    }
    assert ("tuned", "mqa") in items()
    assert ("base", "mqa") not in items()


def test_a_service_is_paid_for_the_tokens_of_every_epoch(checkout):
    assert of_training() == NOTHING
    api = {"model": "base-7b", "price": 2.0, "n_epochs": 3}
    recipe(train={"backend": "api", "api": api})
    with pytest.raises(InputError, match=r"mixture/train\.jsonl"):
        of_training()
    with pytest.raises(InputError, match="models/tuned"):
        of_item("tuned", "mqa")
    turns = (Message("user", "a" * 100), Message("assistant", "é" * 100))
    path = Path("data/processed/mixture/train.jsonl")
    write_conversations(path, [Conversation(f"c{i}", "test", turns, {}) for i in range(4)])
    found = of_training()
    assert (found.dialogues, found.requests) == (4, Range(1, 1))
    assert found.prompt_tokens == Range(3 * 1200 / 4, 3 * 1200 / 3)
    assert found.cost == Range(900 * 2e-6, 1200 * 2e-6)
    recipe(train={"backend": "api", "api": api | {"n_epochs": None}})
    assert of_training().cost is None
