"""RAFT against a teacher over HTTP that answers by rule, and sometimes badly."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "teacher"))
sys.path.insert(0, str(Path(__file__).parents[1] / "raft"))

import mock_batches
import mock_server
import rooms
from mock_batches import MockBatches
from mock_server import MockServer
from rooms import SPOILED, code_of, completion, jsonl, put, shown

from stillroom.errors import InputError, ParamsError
from stillroom.params import Batching, Endpoint, Teacher
from stillroom.raft import review
from stillroom.raft.pairs import read_pairs
from stillroom.records import read_conversations
from stillroom.sources.documents import read_documents
from stillroom.stages import raft
from stillroom.teacher.cache import Cache
from stillroom.teacher.prompts import cot_answer

KEYS = ["id", "type", "question", "context", "oracle_context", "cot_answer", "instruction"]
REJECT = {"no_answer_tag": "reject", "no_quote": "reject", "quote_not_in_chunk": "reject"}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A server that knows the rooms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mock_server, "completion", completion)
        with MockServer(tmp_path_factory.mktemp("teacher") / "bought.jsonl") as server:
            yield server


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One response cache for all tests: the same questions are asked once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def paths(tmp_path, base, cache, monkeypatch):
    """A checkout of five documents of eight passages, one room in each."""
    monkeypatch.setenv("STILLROOM_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "documents")
    return raft.Paths(documents=Path("documents"), base=base)


def params(server, **settings):
    defaults = {"chunk_size": 150, "chunk_overlap": 0, "shortest_chunk": 60, "questions_per_chunk": 2}
    endpoint = Endpoint(base_url=server.url if server else "http://127.0.0.1:9/v1")
    return raft.Params(**{"teacher": Teacher(model="rules"), "endpoint": endpoint, **defaults, **settings})


def results(paths):
    train = list(read_conversations(paths.train))
    evaluation = list(read_conversations(paths.benchmark / "eval.jsonl"))
    return train, evaluation, jsonl(paths.records), json.loads(paths.metrics.read_bytes())


def outs(paths):
    """The bytes of everything that the stage wrote."""
    files = [paths.train, paths.records, paths.pairs, paths.answers, paths.metrics]
    files += [p for folder in (paths.benchmark, paths.export) for p in sorted(folder.iterdir())]
    return {str(path): path.read_bytes() for path in files}


def test_records_are_those_of_recipe_c(paths, teacher):
    raft.run(paths, params(teacher, oracle_probability=1, refusal_share=0, distractors=3))
    train, _, records, _ = results(paths)
    assert len(records) == len(train) > 20
    for number, record in enumerate(records):
        assert list(record) == KEYS
        assert list(record["context"]) == ["title", "sentences"]
        (titles,), (sentences,) = record["context"].values()
        assert record["id"] == f"seed_task_{number:06}"
        assert len(sentences) == 4
        assert all(title.startswith("House ") for title in titles)
        assert record["oracle_context"] in sentences
        lines = "".join(f"<DOCUMENT>{sentence}</DOCUMENT>\n" for sentence in sentences)
        assert record["instruction"] == lines + record["question"]
        room = re.fullmatch(r"What is the code of room (d\dp\d)\?", record["question"])[1]
        assert f"Room {room} opens" in record["oracle_context"]
        assert record["cot_answer"].endswith(f"\n<ANSWER>: {code_of(room)}")
    said = {record["instruction"]: record["cot_answer"] for record in records}
    assert said == {c.messages[0].content: c.messages[1].content for c in train}


def test_faults_are_counted_repaired_and_rejected(paths, teacher):
    raft.run(paths, params(teacher, eval_share=0, policies=REJECT))
    metrics = results(paths)[3]
    assert metrics["chunks"] == metrics["questions"]["asked"] == 40
    assert (metrics["questions"]["not_a_question"], metrics["questions"]["repeated"]) == (40, 40)
    rejected = {fault.removeprefix("repaired ") for fault, _ in SPOILED.values()}
    assert {fault for fault, found in metrics["answers"].items() if "rejected" in found} == rejected
    assert metrics["answers"]["good"] == {"kept": metrics["train"]} == {"kept": 40 - len(SPOILED)}
    raft.run(paths, params(teacher, eval_share=0, refusal_share=0))
    train, _, _, metrics = results(paths)
    assert metrics["train"] == 35
    assert metrics["answers"]["no_quote"] == {"rejected": 1, "repaired": 1}
    repaired = {c.meta["question"]: c.meta["turns"][0].get("repaired") for c in train}
    assert repaired["What is the code of room d1p0?"] == ["no_answer_tag"]
    assert repaired["What is the code of room d1p3?"] is None
    spoken = {c.meta["question"][-5:-1]: c.messages[1].content for c in train}
    assert spoken["d1p0"] == cot_answer(f"Room d1p0 opens\nwith the code {code_of('d1p0')}.", code_of("d1p0"))
    assert f"##Room d1p1 opens with the code {code_of('d1p1')}.##" in spoken["d1p1"]


def test_retries_ask_once_more_and_what_was_bought_is_in_the_snapshot(paths, teacher):
    everything = dict.fromkeys(("unfinished", "empty_answer"), "retry") | dict.fromkeys(
        REJECT, "repair_or_retry"
    )
    raft.run(paths, params(teacher, eval_share=0, policies=everything))
    metrics = results(paths)[3]
    assert metrics["train"] == 40
    retried = {fault: found.get("retried") for fault, found in metrics["answers"].items()}
    assert retried == {"good": None, **dict.fromkeys(raft.FAULTS, 1)}
    assert pq.read_table(paths.answers).num_rows == 40 + 40 + 5


def test_documents_stand_on_one_side_only(paths, teacher):
    raft.run(paths, params(teacher, eval_share=0.4, distractors=2))
    train, evaluation, _, _ = results(paths)
    sides = [{record.meta["document"] for record in side} for side in (train, evaluation)]
    assert [len(side) for side in sides] == [3, 2]
    assert sides[0] & sides[1] == set()
    held = " ".join(document.text for document in read_documents(paths.documents) if document.id in sides[1])
    assert not any(text in held for record in train for text in shown(record.messages[0].content))
    assert {pair.chunk.document for pair in read_pairs(paths.pairs) if pair.side == "eval"} == sides[1]


def test_the_benchmark_always_shows_the_oracle_or_refuses(paths, teacher):
    raft.run(paths, params(teacher, eval_share=0.6, oracle_probability=0, refusal_share=0.4))
    train, evaluation, records, metrics = results(paths)
    assert (metrics["oracle_probability"], metrics["refusal_share"]) == (0, pytest.approx(0.4, abs=0.05))
    for record in evaluation:
        oracle = record.meta["oracle"]
        assert record.meta["refusal"] == (oracle not in shown(record.messages[0].content) or not oracle)
        assert record.messages[1].content.rpartition("<ANSWER>: ")[2] == record.meta["answer"]
    assert 0 < metrics["eval_refusals"] < metrics["eval"]
    assert not any(row["oracle_context"] in shown(row["instruction"]) for row in records)
    assert not any(record.meta["oracle_shown"] for record in train)


def test_over_context_means_fewer_distractors(paths, teacher):
    raft.run(paths, params(teacher, eval_share=0, context_length=520, oracle_probability=1, refusal_share=0))
    _, _, records, metrics = results(paths)
    assert metrics["shortened"] == metrics["train"] > 0
    assert metrics["tokens"]["max"] <= 520
    assert all(record["oracle_context"] in shown(record["instruction"]) for record in records)


def test_equal_questions_about_several_passages_are_one(paths, teacher):
    shutil.copy("documents/house-2.md", "documents/house-9.md")
    text = Path("documents/house-9.md").read_text()
    Path("documents/house-9.md").write_text(text.replace("It is", "There it is"))
    raft.run(paths, params(teacher, eval_share=0))
    metrics = results(paths)[3]
    assert metrics["questions"]["asked"] == 48
    assert metrics["questions"]["duplicates"] == 8
    assert metrics["train"] == 35
    assert {c.meta["document"] for c in results(paths)[0]} == {f"house-{n}.md" for n in range(5)}


def test_a_second_run_buys_nothing_and_gives_the_same_bytes(paths, teacher):
    raft.run(paths, params(teacher))
    first, asked = outs(paths), len(teacher.bought())
    raft.run(paths, params(None))
    assert outs(paths) == first
    assert len(teacher.bought()) == asked


def test_the_words_that_ask_may_be_a_file_of_ones_own(paths, teacher):
    asked = len(teacher.bought())
    Path("prompts").mkdir()
    Path("prompts/mine.yaml").write_text(
        "questions: '{title} holds: {passage} Ask {count}!'\n"
        "answers: |-\n  {passage}\n  Question: {question}\n"
        "  ##begin_quote## ##end_quote## <ANSWER>: of {title}\n"
    )
    raft.run(paths, params(teacher, prompts="mine.yaml", formats=["chat", "eval"], system_prompt="Be brief."))
    new = [body["messages"][0]["content"] for body in teacher.bought()[asked:]]
    assert len(new) == 80
    assert sum(text.startswith("House ") and text.endswith(" Ask 2!") for text in new) == 40
    assert sum(text.endswith("<ANSWER>: of House 3") for text in new) == 8
    _, evaluation, records, _ = results(paths)
    chats = jsonl(paths.export / "chat.jsonl")
    assert [c["messages"][1]["content"] for c in chats] == [r["instruction"] for r in records]
    assert {c["messages"][0]["content"] for c in chats} == {"Be brief."}
    assert len(jsonl(paths.export / "eval.jsonl")) == len(evaluation) > 0
    with pytest.raises(ParamsError, match=r"prompts/other\.yaml: no such file"):
        raft.run(paths, params(teacher, prompts="other.yaml"))


def test_a_persons_decisions_come_back_after_a_regeneration(paths, teacher):
    raft.run(paths, params(teacher))
    held = [pair for pair in read_pairs(paths.pairs) if pair.side == "eval"]
    quote = cot_answer("It is in a very long hall.", "in a hall")
    decisions = [
        review.decided(held[0], "keep"),
        review.decided(held[1], "drop"),
        review.decided(held[2], "keep", "Where is it?", quote),
        review.Decision("0" * 16, "gone.md", "Who?", "x", "keep"),
    ]
    review.write(paths.review, review.Decisions({d.pair: d for d in decisions}))
    for folder in ("data/interim", "data/benchmarks"):
        shutil.rmtree(folder)
    raft.run(paths, params(None, reviewed_only=True, refusal_share=0))
    _, evaluation, _, metrics = results(paths)
    assert metrics["review"]["eval"] == {"dropped": 1, "edited": 1, "kept": 1, "undecided": len(held) - 3}
    assert metrics["review"]["stale"] == 1
    assert {c.meta["question"]: c.meta["answer"] for c in evaluation} == {
        held[0].question: held[0].answer,
        "Where is it?": "in a hall",
    }
    assert [pair.id for pair in read_pairs(paths.pairs) if pair.side == "eval"] == [pair.id for pair in held]


def test_repeated_and_short_passages_are_left_out(paths, teacher):
    shutil.copy("documents/house-0.md", "documents/copy.md")
    Path("documents/note.txt").write_text("Too short.")
    raft.run(paths, params(teacher, eval_share=0))
    metrics = results(paths)[3]
    assert (metrics["documents"], metrics["chunks"]) == (7, 40)
    assert metrics["dropped"]["duplicate_chunks"] == 8
    assert metrics["dropped"]["short_chunks"] >= 1


def test_no_documents_ask_nobody(paths):
    shutil.rmtree("documents")
    Path("documents").mkdir()
    raft.run(paths, params(None, formats=["hf"], file_type="parquet"))
    assert results(paths)[:3] == ([], [], [])
    assert pq.read_table(paths.answers).num_rows == pq.read_table(paths.export / "hf.parquet").num_rows == 0


def test_an_unreadable_document_leaves_nothing_behind(paths):
    Path("documents/torn.pdf").write_bytes(b"%PDF-1.7 torn")
    with pytest.raises(InputError, match=r"torn\.pdf"):
        raft.run(paths, params(None))
    assert not paths.train.exists()


def killed_at(server, answers, paths, settings):
    """Run the stage in a process of its own, and kill it when the server has given so many answers."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stillroom.stages.raft"])
    process = context.Process(
        target=rooms.run, args=(os.environ["STILLROOM_CACHE"], Path.cwd(), paths, settings)
    )
    process.start()
    while process.is_alive() and (not server.log.exists() or len(server.bought()) < answers):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_killed_run_buys_nothing_twice_and_a_batch_gives_the_same_bytes(paths, tmp_path, monkeypatch):
    """Three ways to the same bytes: killed twice and resumed, in batches, and undisturbed."""
    monkeypatch.setattr(mock_server, "completion", completion)
    monkeypatch.setattr(mock_batches, "completion", completion)
    retry = {"unfinished": "retry", "quote_not_in_chunk": "retry"}
    found = {}
    with MockServer(tmp_path / "killed.jsonl", latency=0.01) as server:
        monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "killed"))
        endpoint = Endpoint(base_url=server.url, max_in_flight=4)
        for answers in (10, 45):
            killed_at(server, answers, paths, params(server, endpoint=endpoint, policies=retry))
            time.sleep(0.05)  # the server may still answer what was in flight
            before = [canonical(body) for body in server.bought()]
            with Cache() as cache:
                cache.export(cache.keys(), tmp_path / "kept.parquet")
            requests = pq.read_table(tmp_path / "kept.parquet", columns=["request"]).column(0).to_pylist()
            kept = {canonical(json.loads(request)["body"]) for request in requests}
            assert len(kept) >= answers - 8
            assert not paths.train.exists()
        raft.run(paths, params(server, endpoint=endpoint, policies=retry))
        after = [canonical(body) for body in server.bought()]
        assert kept.isdisjoint(after[len(before) :])
        assert len(set(after)) == 83
        assert len(after) - 83 <= 2 * 4  # at most what was in flight is bought twice
        found["killed"] = outs(paths)
    with MockBatches(tmp_path / "batches.jsonl") as server:
        monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "batches"))
        endpoint = Endpoint(base_url=server.url, backend="batch", batch=Batching(poll_seconds=0.01))
        paths.answers.unlink()
        raft.run(paths, params(server, endpoint=endpoint, policies=retry))
        assert server.batches() == [40, 40, 3]  # questions, answers, retries: each passage's at once
        found["batches"] = outs(paths)
    assert found["killed"] == found["batches"]


def canonical(body):
    return json.dumps(body, sort_keys=True)
