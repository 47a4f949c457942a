"""RAFT's questions in every context, answered by a reader that knows what its prompt says and no more."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "raft"))

from rooms import chunk, code_of, pair, shown

from stillroom import chat_format
from stillroom.artifacts import write_jsonl
from stillroom.benchmarks import statistics
from stillroom.benchmarks.raft import Raft, RightJudge
from stillroom.benchmarks.subject import Reply, Subject
from stillroom.errors import InputError
from stillroom.raft.formats import conversation
from stillroom.raft.pairs import PASSAGES, passage_row
from stillroom.raft.plans import REFUSAL, Plan
from stillroom.records import write_conversations
from stillroom.reporting import tables
from stillroom.reporting.inputs import Inputs
from stillroom.stages import evaluate
from stillroom.teacher.requests import Answer

ROOMS = [f"r{n:02}" for n in range(30)]
ASKED, REFUSED = ROOMS[:8], ROOMS[8:10]


class Reader(Subject):
    """Answers with the code of the room, where the prompt has it; else refuses."""

    def prompt(self, messages):
        return messages[-1].content

    def answers(self, prompts, sampling, seeds, title):
        assert len(set(seeds)) == len(prompts)
        return [Reply(self.read(prompt[-1].content), "stop") for prompt in prompts]

    def read(self, prompt):
        room = re.search(r"What is the code of room (\w+)\?", prompt)[1]
        found = re.search(rf"Room {room} opens with the code (\d+)", prompt)
        return f"So it says.\n<ANSWER>: {found[1]}" if found else REFUSAL


@pytest.fixture
def data(tmp_path):
    """A benchmark whose questions are about ten rooms of thirty; two of them are to be refused."""
    others = tuple(chunk(name) for name in ROOMS[20:23])
    plans = [
        Plan(pair(name, "eval"), others, name in ASKED, name in REFUSED, 0.5) for name in (*ASKED, *REFUSED)
    ]
    records = [conversation(plan, plan.most) for plan in plans]
    write_conversations(tmp_path / "eval.jsonl", sorted(records, key=lambda r: r.id))
    write_jsonl(tmp_path / PASSAGES, [passage_row(chunk(name)) for name in ROOMS])
    return tmp_path


def reader(name="tuned"):
    return Reader(Path("models", name), chat_format.get("inst"), 1024, 42)


def by_context(samples):
    found = {"given": [], "plain": [], "retrieved": []}
    for sample in samples:
        found[sample.id.rpartition("/")[2] if "/" in sample.id else "given"].append(sample)
    return found


def test_every_question_is_asked_with_its_documents_alone_and_with_what_a_search_finds(data):
    asked = by_context(Raft(retrieved=4).run(data, reader()))
    assert [len(asked[context]) for context in asked] == [10, 8, 8]
    for sample in asked["plain"]:
        assert re.fullmatch(r"What is the code of room r\d\d\?", sample.prompt)
    for sample in asked["retrieved"]:
        passages = shown(sample.prompt)
        room = re.search(r"What is the code of room (\w+)\?$", sample.prompt)[1]
        assert (len(passages), len(set(passages))) == (4, 4)
        assert passages[0] == chunk(room).text
    for sample in asked["given"]:
        assert chunk("r20").text in shown(sample.prompt)


def test_figures_of_a_context_are_those_of_its_answers(data):
    hidden = {chunk(name).id for name in ASKED[:3]}  # from the search
    passages = [row for name in ROOMS if (row := passage_row(chunk(name)))["id"] not in hidden]
    write_jsonl(data / PASSAGES, passages)
    samples = Raft(retrieved=4).run(data, reader())
    metrics = evaluate.metrics(Raft(), samples)
    assert (metrics["headline"]["name"], metrics["headline"]["value"]) == ("exact match", 1.0)
    assert metrics["right_refusal"] == 1.0
    assert {key: part["value"] for key, part in metrics["parts"].items()} == {
        "plain_exact_match": 0.0,
        "retrieved_exact_match": 5 / 8,
    }
    assert (metrics["plain"]["refused"], metrics["plain"]["precision"]) == (1.0, None)
    retrieved = metrics["retrieved"]
    assert (retrieved["found"], retrieved["refused"], retrieved["precision"]) == (5 / 8, 3 / 8, 1.0)
    assert (metrics["n"], metrics["refused"], metrics["tagged"]) == (10, 0.0, 1.0)


def test_what_has_no_answer_counts_in_its_own_context(data):
    class Forgetful(Reader):
        def answers(self, prompts, sampling, seeds, title):
            said = super().answers(prompts, sampling, seeds, title)
            alone = ["<DOCUMENT>" not in prompt[-1].content for prompt in prompts]
            return [Reply(None, failed=True) if a else r for a, r in zip(alone, said, strict=True)]

    samples = Raft().run(data, Forgetful(Path("models/base"), chat_format.get("inst"), 1024, 42))
    metrics = evaluate.metrics(Raft(), samples)
    assert (metrics["n"], metrics["failed"], metrics["parts"]["retrieved_exact_match"]["failed"]) == (
        10,
        0,
        0,
    )
    plain = metrics["parts"]["plain_exact_match"]
    assert (plain["failed"], plain["value"]) == (8, None)


def test_cut_answers_are_counted_with_the_questions_that_are_measured(data):
    class Wordy(Reader):
        def answers(self, prompts, sampling, seeds, title):
            return [Reply(self.read(prompt[-1].content), "length") for prompt in prompts]

    metrics = evaluate.metrics(
        Raft(), Raft().run(data, Wordy(Path("models/b"), chat_format.get("inst"), 9, 1))
    )
    assert (metrics["headline"]["n"], metrics["cut"]) == (8, 8)
    assert metrics["parts"]["plain_exact_match"]["cut"] == 8


def test_a_context_may_be_asked_alone(data):
    samples = Raft(contexts=["retrieved"], retrieved=1).run(data, reader())
    metrics = evaluate.metrics(Raft(), samples)
    assert (metrics["headline"]["name"], metrics["headline"]["value"], metrics["n"]) == (
        "exact match, retrieved",
        1.0,
        8,
    )
    assert "parts" not in metrics


def test_a_limit_counts_questions_and_each_keeps_all_its_contexts(data):
    some, all_of_them = (by_context(Raft(limit=limit).run(data, reader())) for limit in (4, None))
    ids = {sample.id for sample in some["given"]}
    assert len(ids) == 4
    known = {sample.id.partition("/")[0] for sample in all_of_them["plain"]}
    for context in ("plain", "retrieved"):
        assert {sample.id.partition("/")[0] for sample in some[context]} == ids & known


def test_fewer_passages_than_wanted_are_all_shown(data):
    write_jsonl(data / PASSAGES, [passage_row(chunk(name)) for name in ROOMS[:2]])
    asked = by_context(Raft(retrieved=9).run(data, reader()))["retrieved"]
    assert {len(shown(sample.prompt)) for sample in asked} == {2}


def test_a_benchmark_without_passages_says_what_to_do(data):
    (data / PASSAGES).unlink()
    with pytest.raises(InputError, match=r"no passages to search(?s:.*)stillroom raft"):
        Raft().run(data, reader())
    assert Raft(contexts=["given", "plain"]).run(data, reader())


def test_those_that_have_not_learned_the_form_are_told(data):
    told, untold = (by_context(Raft().run(data, reader(name))) for name in ("base", "tuned"))
    for context, samples in told.items():
        for sample, other in zip(samples, untold[context], strict=True):
            assert sample.prompt.startswith(f"{other.prompt}\n\nReason first")
            assert sample.prompt.count("`<ANSWER>: `") == 1
            assert ("documents" in sample.prompt[len(other.prompt) :]) == (context != "plain")
            assert sample.scores == other.scores


def test_questions_about_one_passage_are_one_group_in_every_context(data):
    samples = Raft().run(data, reader())
    assert {sample.group for sample in samples} == {chunk(name).id for name in (*ASKED, *REFUSED)}


def test_the_judge_is_asked_in_every_context_and_its_figures_stand_apart(data):
    benchmark = Raft(judge=RightJudge(model="judge", order_swap=False))
    samples = benchmark.run(data, reader())

    def say(prompt):
        gold, given = (
            re.search(f"<{mark}>\n(.*)\n</{mark}>", prompt)[1]
            for mark in ("reference_answer", "answer_to_judge")
        )
        return "YES" if gold == given else "NO"

    judged = []
    for dialogue in benchmark.verdicts(data, samples, 42):
        said = None
        try:
            while True:
                request = dialogue.send(said)
                said = Answer("key", say(request.messages[-1].content), "stop", 0, 0, True)
        except StopIteration as end:
            judged.append(end.value)
    metrics = evaluate.metrics(benchmark, judged)
    assert [metrics["judge"][name] for name in ("right", "wrong", "invalid")] == [8, 0, 0]
    assert [metrics["plain"]["judge"][name] for name in ("right", "wrong", "invalid")] == [0, 8, 0]
    assert metrics["retrieved"]["judge"]["share_right"] == 1.0
    assert set(metrics["parts"]) == {
        "judged_right",
        "plain_exact_match",
        "plain_judged_right",
        "retrieved_exact_match",
        "retrieved_judged_right",
    }
    assert len(benchmark.imagined(data, 42, "")) == len(samples)


def test_models_are_compared_in_each_context_on_the_same_questions(data):
    ours = Raft(contexts=["given", "plain", "retrieved"]).run(data, reader())

    class Dull(Reader):
        def read(self, prompt):
            return "<ANSWER>: 1" if "<DOCUMENT>" in prompt else f"<ANSWER>: {code_of(ASKED[0])}"

    theirs = Raft().run(data, Dull(Path("models/base"), chat_format.get("inst"), 1024, 42))
    inputs = Inputs(samples={("tuned", "raft"): ours, ("base", "raft"): theirs})
    rows = {row["benchmark"]: row for row in tables.comparison(inputs, "raft", "tuned", "base")}
    assert list(rows) == ["raft", "raft/plain_exact_match", "raft/retrieved_exact_match"]
    assert rows["raft"]["delta"] == rows["raft/retrieved_exact_match"]["delta"] == 1.0
    assert rows["raft/plain_exact_match"]["delta"] == -1 / 8
    exact = statistics.compare(*(Raft.measures(s)[0].numbers(s) for s in (ours, theirs)))
    assert rows["raft"]["p"] == pytest.approx(exact.p, abs=1e-6)
