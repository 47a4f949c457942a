"""What judges are asked and how their verdicts are read, with judges in this process."""

import json
import math
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from pydantic import ValidationError

from stillroom import chat_format
from stillroom.benchmarks import alpaca_eval
from stillroom.benchmarks.alpaca_eval import AlpacaEval, PairJudge, by_length, is_turned
from stillroom.benchmarks.base import Sample
from stillroom.benchmarks.judge import word
from stillroom.benchmarks.raft import Raft, RightJudge
from stillroom.errors import EndpointError, InputError, ParamsError
from stillroom.params import Address, Endpoint, Teacher
from stillroom.records import Conversation, Message
from stillroom.sources import alpaca_eval as source
from stillroom.stages import evaluate
from stillroom.teacher.requests import TOO_LONG, Answer, answer, answered, query

REAL = Path("../shared/data/alpaca_eval")
INST = chat_format.get("inst")


def driven(dialogue, say):
    """The result of a dialogue whose requests are answered by say(prompt), and the prompts."""
    prompts, given = [], None
    try:
        while True:
            request = dialogue.send(given)
            prompts.append(request.messages[-1].content)
            text = say(prompts[-1])
            given = Answer("key", text, "stop" if text else TOO_LONG, 0, 0, True)
    except StopIteration as end:
        return end.value, prompts


def pair(instruction="Say hello.", reference="Hello.", output="Good day.", id="a-0000"):
    record = Conversation(id, "test", (Message("user", instruction), Message("assistant", reference)), {})
    return record, Sample(id, id, instruction, output, [reference], {"characters": float(len(output))})


def compared(say, record, sample, seed=42, **judge):
    benchmark = AlpacaEval(judge=PairJudge(model="judge", **judge))
    return driven(benchmark.verdict(record, sample, seed), say)


def first_of_two(prompt, *texts):
    return min(texts, key=prompt.index)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("YES", "YES"),
        (" Yes.\n", "YES"),
        ("**no**", "NO"),
        ("`NO`", "NO"),
        ("YES, because NO", None),
        ("The answer is YES", None),
        ("YESNO", None),
        ("YES NO", None),
        ("NOT", None),
        ("Y", None),
        ("", None),
    ],
)
def test_a_verdict_is_one_word_and_nothing_else(text, expected):
    assert word(text, ("YES", "NO")) == expected


# --- AlpacaEval ---


@pytest.mark.parametrize("scoring", ["verdict", "logprobs"])
def test_the_better_output_wins_wherever_it_stands(scoring):
    names = ("1", "2") if scoring == "verdict" else ("m", "M")

    def say(prompt):
        best = names[0] if first_of_two(prompt, "good", "poor") == "good" else names[1]
        first = {best: math.log(0.9), names[names[0] == best]: math.log(0.1)}
        return best if scoring == "verdict" else json.dumps({"text": best, "first": first})

    turned = 0
    for i in range(60):
        record, sample = pair(f"Task {i}.", "poor", "good")
        turned += is_turned(42, f"Task {i}.")
        found, _ = compared(say, record, sample, scoring=scoring)
        assert found.scores["preference"] == (2 if scoring == "verdict" else 1.9)
        assert found.scores["win"] == pytest.approx(found.scores["preference"] - 1)
        record, sample = pair(f"Task {i}.", "good", "poor")
        found, _ = compared(say, record, sample, scoring=scoring)
        assert found.scores["preference"] == (1 if scoring == "verdict" else 1.1)
    assert 15 < turned < 45


def test_a_judge_that_prefers_a_place_wins_half_and_is_not_consistent():
    found = [compared(lambda _: "1", *pair(f"{i}"), order_swap=True) for i in range(200)]
    scores = [sample.scores for sample, _ in found]
    assert 60 < sum(s["win"] for s in scores) < 140
    assert {s["consistent"] for s in scores} == {0.0}
    assert all(len(prompts) == 2 for _, prompts in found)


def test_order_is_of_the_seed_and_the_instruction():
    orders = {seed: [is_turned(seed, f"{i}") for i in range(64)] for seed in (1, 2)}
    assert orders[1] != orders[2]
    assert orders[1] == [is_turned(1, f"{i}") for i in range(64)]


def test_equal_outputs_are_a_draw_that_nobody_is_asked_about():
    found, prompts = compared(None, *pair(reference="Hello.", output="Hello."))
    assert (found.scores["preference"], found.scores["win"], prompts) == (1.5, 0.5, [])


@pytest.mark.parametrize("text", ["", "3", "Answer 1 is better", "1 2", "Both"])
def test_an_answer_without_a_verdict_is_failed_and_counted(text):
    failed, _ = compared(lambda _: text, *pair("a"))
    won, _ = compared(
        lambda prompt: "12"[first_of_two(prompt, "Hello.", "Good day.") == "Hello."], *pair("b")
    )
    assert (failed.status, won.status) == ("failed", "scored")
    assert "no verdict" in failed.note
    assert repr(text)[1:-1] in failed.note
    metrics = evaluate.metrics(AlpacaEval(), [failed, won])
    assert (metrics["n"], metrics["failed"], metrics["n_total"], metrics["win_rate"]) == (1, 1, 1, 100)


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ({"m": math.log(0.3), "M": math.log(0.6), "the": -3.0}, 2 - 0.3 / 0.9),
        ({"m": math.log(0.2), " m": math.log(0.1), "M": math.log(0.3)}, 1.5),
        ({"M": -9.0, "x": -0.01}, 2.0),
        ({"m": -0.5}, 1.0),
        ({"x": -0.1, "y": -3.0}, None),
        ({}, None),
    ],
)
def test_log_probabilities_are_weighed(first, expected):
    found = alpaca_eval.weighed(Answer("key", json.dumps({"text": "m", "first": first}), "stop", 0, 0, True))
    assert found == (expected if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_log_probabilities_are_asked_for_and_kept_in_the_text(api):
    asked = (
        PairJudge(model="judge", scoring="logprobs").compare("Say hello.", "Hello.", "Good day.").send(None)
    )
    made = query(asked, Teacher(model="judge", api=api), "judge", INST, 42)
    plain = query(
        PairJudge(model="judge").compare("", "", "").send(None), Teacher(model="judge"), "judge", INST, 42
    )
    assert {"logprobs", "top_logprobs"}.isdisjoint(plain.body)
    first = {"M": -0.25, "m": -1.5}
    if api == "chat":
        assert (made.body["logprobs"], made.body["top_logprobs"]) == (True, 5)
        named = [{"token": token, "logprob": value, "bytes": []} for token, value in first.items()]
        logprobs = {"content": [{"token": "M", "logprob": -0.25, "top_logprobs": named}]}
        choice = {"message": {"content": "M"}, "finish_reason": "stop"}
    else:
        assert made.body["logprobs"] == 5
        logprobs, choice = {"top_logprobs": [first]}, {"text": "M", "finish_reason": "stop"}

    def row(**parts):
        return answered(made, json.dumps({"choices": [choice | parts]}).encode(), {})

    expected = 2 - math.exp(-1.5) / (math.exp(-0.25) + math.exp(-1.5))
    assert alpaca_eval.weighed(answer(row(logprobs=logprobs), cached=False)) == pytest.approx(expected)
    assert (
        alpaca_eval.weighed(answer(row(logprobs=None, finish_reason="content_filter"), cached=False)) is None
    )
    with pytest.raises(EndpointError, match="no log-probabilities"):
        row(logprobs=None)
    with pytest.raises(ValueError, match="OpenAI-style"):
        row(logprobs={"content": [{"token": "M"}]})


def test_the_win_rate_is_drawn_against_the_length():
    sizes = {"1": 1, "2": 125, "3": 126, "4": 250, "5": 2000, "6": 2001}
    samples = [Sample(i, i, "", "", (), {"characters": float(n), "win": 1.0}) for i, n in sizes.items()]
    found = {size: [s.id for s in group] for size, (_, group) in by_length(samples).items()}
    assert found == {125: ["1", "2"], 250: ["3", "4"], 2000: ["5"], 4000: ["6"]}


@pytest.mark.real_data
@pytest.mark.parametrize("model", ["alpaca-7b", "falcon-40b-instruct"])
def test_the_published_judgements_replayed_give_the_published_row(model, tmp_path):
    """Reference and output in whatever order, judged as GPT-4 did: the same figures."""
    if not REAL.is_dir():
        pytest.skip(f"{REAL} is absent")
    annotations = json.loads((REAL / model / "annotations.json").read_text())
    rows = [{**a, "output": a["output_1"], "generator": a["generator_1"]} for a in annotations]
    (tmp_path / "set.json").write_text(json.dumps(rows))
    benchmark, samples, asked = AlpacaEval(judge=PairJudge(model="gpt-4")), [], 0
    for record, a in zip(benchmark.records(tmp_path), annotations, strict=True):
        _, sample = pair(a["instruction"], a["output_1"], a["output_2"], record.id)
        better = a[f"output_{a['preference']}"] if a["preference"] else None

        def say(prompt, better=better):
            parts = prompt.partition("\n</answer_1>")[0].rpartition("<answer_1>\n")
            return "1" if parts[2] == better else "2"

        found, prompts = driven(benchmark.verdict(record, sample, 42), say)
        samples.append(found)
        asked += len(prompts)
    assert asked == sum(a["output_1"] != a["output_2"] for a in annotations)
    (tmp_path / "out").mkdir()
    benchmark.export(tmp_path / "out", tmp_path, samples, model)
    published = alpaca_eval.read(REAL / model)
    assert alpaca_eval.read(tmp_path / "out") == published
    details = AlpacaEval.details(samples)
    assert {field.name: details[field.name] for field in fields(published)} == asdict(published)
    keys = ("instruction", "output_1", "generator_1", "dataset", "output_2")
    exported = json.loads((tmp_path / "out/annotations.json").read_text())
    assert [{k: a[k] for k in keys} for a in exported] == [{k: a[k] for k in keys} for a in annotations]


# --- the set ---


def test_the_set_is_read_in_its_order(tmp_path):
    assert source.read(tmp_path) == []
    rows = [
        {"instruction": "A?", "output": "", "dataset": "koala", "generator": "davinci"},
        {"instruction": "B?", "output": "b"},
    ]
    (tmp_path / "set.json").write_text(json.dumps(rows))
    first, second = source.read(tmp_path)
    assert (first.id, first.meta) == ("koala-0000", {"dataset": "koala", "generator": "davinci"})
    assert (second.id, second.meta) == (
        "alpaca_eval-0001",
        {"dataset": "alpaca_eval", "generator": "reference"},
    )
    assert AlpacaEval().gold(first) == [""]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"instruction": "A?", "output": "a"}, {"instruction": "A?", "output": "b"}]', "record 2.*before"),
        ('[{"instruction": "A?"}]', "record 1.*`output`"),
        ('[{"instruction": " ", "output": "a"}]', "empty"),
        ('[["A?"]]', "an object was expected"),
        ("[{]", "not valid JSON"),
    ],
)
def test_a_bad_set_is_named(tmp_path, content, message):
    (tmp_path / "set.json").write_text(content)
    with pytest.raises(InputError, match=message):
        source.read(tmp_path)


# --- RAFT ---


def answers(output, *, refusal=False, id="r"):
    meta = {"question": "Which day?", "answer": "Saturday", "refusal": refusal}
    record = Conversation(id, "raft", (Message("user", "…"), Message("assistant", "…")), meta)
    scores = Raft().score(record, output, ["Saturday"])
    return record, Sample(id, id, "…", output, ["Saturday"], scores)


def asked(say, record, sample, **judge):
    return driven(Raft(judge=RightJudge(model="judge", **judge)).verdict(record, sample, 42), say)


def test_the_judge_sees_question_gold_and_answer_in_both_orders():
    found, prompts = asked(lambda _: "YES", *answers("It says so. <ANSWER>: on a Saturday"))
    assert len(prompts) == 2
    assert all("<question>\nWhich day?\n" in p and "It says so" not in p for p in prompts)
    marks = ("<reference_answer>\nSaturday\n", "<answer_to_judge>\non a Saturday\n")
    assert [first_of_two(p, *marks) for p in prompts] == list(marks)
    assert (found.scores["judged_right"], found.scores["consistent"]) == (1.0, 1.0)
    _, prompts = asked(lambda _: "YES", *answers("<ANSWER>: Saturday"), order_swap=False)
    assert len(prompts) == 1


def test_nobody_is_asked_about_refusals_and_empty_answers():
    record, sample = answers("<ANSWER>: The documents do not hold it.", refusal=True)
    assert asked(None, record, sample) == (sample, [])
    found, prompts = asked(None, *answers("Well. <ANSWER>:"))
    assert (found.scores["judged_right"], prompts) == (0.0, [])


def test_figures_of_a_judge_that_wavers():
    def wavering(prompt):
        swapped = first_of_two(prompt, "<reference_answer>", "<answer_to_judge>") == "<answer_to_judge>"
        said = prompt.partition("<answer_to_judge>\n")[2].partition("\n")[0]
        return {"right": "YES", "wrong": "no.", "unsure": "NO" if swapped else "YES", "odd": "YES and NO"}[
            said
        ]

    outputs = ["right"] * 5 + ["wrong"] * 2 + ["unsure"] * 1 + ["odd"] * 2
    samples = [asked(wavering, *answers(f"<ANSWER>: {o}", id=f"{i}"))[0] for i, o in enumerate(outputs)]
    assert all(sample.status == "scored" for sample in samples)
    assert "no verdict" in samples[-1].note
    metrics = evaluate.metrics(Raft(), samples)
    judge = metrics["judge"]
    assert (judge["right"], judge["wrong"], judge["invalid"]) == (6, 2, 2)
    assert (judge["share_right"], judge["consistency"]) == (0.75, 0.875)
    assert 0 < judge["low"] < 0.75 < judge["high"] < 1
    assert [m.key for m in Raft.measures(samples)] == ["exact_match", "rouge_l", "judged_right"]


def test_a_judge_without_a_verdict_says_nothing_of_an_answer():
    samples = [asked(lambda _: "Perhaps.", *answers("<ANSWER>: Saturday", id=f"{i}"))[0] for i in range(3)]
    judge = evaluate.metrics(Raft(), samples)["judge"]
    assert [judge[key] for key in ("right", "wrong", "invalid", "share_right", "precision")] == [
        0,
        0,
        3,
        None,
        None,
    ]


def test_without_a_judge_the_figures_are_as_before():
    record, sample = answers("<ANSWER>: Saturday")
    assert driven(Raft().verdict(record, sample, 42), None) == (sample, [])
    assert "judge" not in Raft.details([sample])
    assert [m.key for m in Raft.measures([sample])] == ["exact_match", "rouge_l"]


# --- settings ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "embedded"}, "no judge"),
        ({"model": "j", "prompt": "{question}"}, "{answers} is missing"),
        ({"model": "j", "prompt": "{question} {answers} {gold}"}, "unknown placeholder 'gold'"),
        ({"model": "j", "prompt": "{question} {answers} {"}, "unknown placeholder '{'"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        RightJudge(**settings)


def test_prompts_are_told_apart_by_hash():
    own = RightJudge(model="j", prompt="{{so}} {question} {answers}")
    assert own.request(question="Q", answers="A").messages[0].content == "{so} Q A"
    judges = [own, RightJudge(model="j"), PairJudge(model="j"), PairJudge(model="j", scoring="logprobs")]
    assert len({judge.prompt_sha256 for judge in judges}) == 4


def test_a_judge_that_is_missing_or_nowhere_says_what_to_set():
    with pytest.raises(ParamsError, match=r"(?s)evaluate\.alpaca_eval\.judge.*judge\.model"):
        AlpacaEval().ready(Endpoint())
    Raft().ready(Endpoint())
    judged = Raft(judge=RightJudge(model="j"))
    with pytest.raises(ParamsError, match=r"(?s)evaluate\.raft\.judge.*endpoint\.judge\.base_url"):
        judged.ready(Endpoint())
    judged.ready(Endpoint(base_url="http://here/v1"))
    judged.ready(Endpoint(judge=Address(base_url="http://there/v1")))


def test_a_judge_elsewhere_never_gets_the_teachers_key():
    endpoint = Endpoint(base_url="http://here/v1", api_key_env="T", api_key_file="t", max_cost=3)
    assert endpoint.of_judges() is endpoint
    there = endpoint.model_copy(update={"judge": Address(base_url="http://there/v1")}).of_judges()
    assert (there.base_url, there.api_key_env, there.api_key_file) == (
        "http://there/v1",
        "JUDGE_API_KEY",
        None,
    )
    assert there.max_cost == 3
