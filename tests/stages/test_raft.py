"""RAFT against a teacher over HTTP that answers by rule, and sometimes badly."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stillroom.errors import InputError
from stillroom.params import Endpoint, Teacher
from stillroom.records import read_conversations
from stillroom.sources.documents import read_documents
from stillroom.stages import raft
from stillroom.teacher.prompts import cot_answer
from stillroom.teacher.replies import cleaned, fault

KEYS = ["id", "type", "question", "context", "oracle_context", "cot_answer", "instruction"]
ROOMS = re.compile(r"Room (\w+) opens with the code (\d+)\.")


def reply(prompt):
    """Two questions a room, in the dress that models put on; answers with a quotation."""
    rooms = dict(ROOMS.findall(prompt))
    question = re.search(r"^Question: .*room (\w+)", prompt, re.MULTILINE)
    if not question:
        lines = [f"{i}. **What is the code of room {room}?**" for i, room in enumerate(rooms, 1)]
        return "\n".join(["Here are questions:", *lines, *lines[:1]]), "stop"
    room = question[1]
    good = cot_answer(f"Room {room} opens\nwith the code {rooms[room]}.", rooms[room])
    spoiled = {
        "d0p0": (good.replace("<ANSWER>:", "Answer:"), "stop"),
        "d0p1": (good.replace(rooms[room], "999"), "stop"),
        "d0p2": (good, "length"),
        "d1p0": (f"<ANSWER>: {rooms[room]}", "stop"),
        "d1p1": (good.rpartition(":")[0] + ": the", "stop"),
    }
    return spoiled.get(room, (good, "stop"))


class Rules(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        text, finish = reply(body["messages"][-1]["content"])
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        answer = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 3}})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Rules)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One response cache for all tests: the same questions are asked once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def paths(tmp_path, base, cache, monkeypatch):
    monkeypatch.setenv("STILLROOM_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "documents").mkdir()
    return raft.Paths(documents=Path("documents"), base=base)


def put(paths, documents=5, paragraphs=8):
    for d in range(documents):
        rooms = [
            f"Room d{d}p{p} opens with the code {d}{p}7. {f'It is number {d} {p} of a very long hall. ' * 2}"
            for p in range(paragraphs)
        ]
        (paths.documents / f"house-{d}.md").write_text(f"# House {d}\n\n" + "\n\n".join(rooms))


def params(server, **settings):
    shared = {
        "teacher": Teacher(model="rules"),
        "endpoint": Endpoint(base_url=f"http://127.0.0.1:{server.server_port}/v1"),
    }
    defaults = {"chunk_size": 150, "chunk_overlap": 0, "shortest_chunk": 60, "questions_per_chunk": 2}
    return raft.Params(**{**shared, **defaults, **settings})


def results(paths):
    train = list(read_conversations(paths.train))
    evaluation = list(read_conversations(paths.benchmark / "eval.jsonl"))
    records = [json.loads(line) for line in paths.records.read_text().splitlines()]
    return train, evaluation, records, json.loads(paths.metrics.read_bytes())


def shown(instruction):
    return re.findall(r"<DOCUMENT>(.*?)</DOCUMENT>", instruction, re.DOTALL)


def test_records_are_those_of_recipe_c(paths, server):
    put(paths)
    raft.run(paths, params(server, oracle_probability=1, refusal_share=0, distractors=3))
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
        assert re.fullmatch(r"What is the code of room d\dp\d\?", record["question"])
        room, code = ROOMS.findall(record["oracle_context"])[0]
        assert room in record["question"]
        assert record["cot_answer"].endswith(f"\n<ANSWER>: {code}")
    said = {record["instruction"]: record["cot_answer"] for record in records}
    assert said == {c.messages[0].content: c.messages[1].content for c in train}


def test_bad_answers_are_rejected_by_reason(paths, server):
    put(paths)
    raft.run(paths, params(server, eval_share=0))
    _, _, _, metrics = results(paths)
    assert metrics["chunks"] == metrics["questions"] == 40
    assert metrics["answers_rejected"] == {
        "unfinished": 1,
        "no_answer_tag": 1,
        "empty_answer": 1,
        "no_quote": 1,
        "quote_not_in_chunk": 1,
    }
    assert metrics["train"] == 35
    assert metrics["dropped"]["duplicate_questions"] == 40
    assert metrics["dropped"]["not_a_question"] == 40


def test_documents_stand_on_one_side_only(paths, server):
    put(paths)
    raft.run(paths, params(server, eval_share=0.4, distractors=2))
    train, evaluation, _, _ = results(paths)
    sides = [{record.meta["document"] for record in side} for side in (train, evaluation)]
    assert [len(side) for side in sides] == [3, 2]
    assert sides[0] & sides[1] == set()
    held = " ".join(document.text for document in read_documents(paths.documents) if document.id in sides[1])
    assert not any(text in held for record in train for text in shown(record.messages[0].content))


def test_the_benchmark_always_shows_the_oracle_or_refuses(paths, server):
    put(paths)
    raft.run(paths, params(server, eval_share=0.6, oracle_probability=0, refusal_share=0.4))
    _, evaluation, _, metrics = results(paths)
    for record in evaluation:
        oracle = record.meta["oracle"]
        assert record.meta["refusal"] == (oracle not in shown(record.messages[0].content) or not oracle)
        assert record.messages[1].content.rpartition("<ANSWER>: ")[2] == record.meta["answer"]
    assert 0 < metrics["eval_refusals"] < metrics["eval"]


@pytest.mark.parametrize("chance", [0.0, 0.6, 1.0])
def test_p_and_its_complement_are_honoured(paths, server, chance):
    put(paths, documents=9, paragraphs=9)
    raft.run(paths, params(server, eval_share=0, oracle_probability=chance, refusal_share=0))
    train, _, records, metrics = results(paths)
    present = [record["oracle_context"] in shown(record["instruction"]) for record in records]
    assert metrics["train_oracle_shown"] == sum(present)
    assert sum(present) == round(chance * len(present))
    assert {len(shown(record["instruction"])) for record in records} == {5}
    assert [record.meta["oracle_shown"] for record in train].count(True) == sum(present)


def test_a_refusal_has_no_oracle_anywhere(paths, server):
    put(paths)
    raft.run(paths, params(server, eval_share=0, refusal_share=1))
    train, _, records, _ = results(paths)
    chunks = {record.meta["chunk"]: record for record in train}
    assert len(chunks) == len(records)
    for record in train:
        code = re.search(r"room (d\dp\d)", record.messages[0].content.splitlines()[-1])[1]
        everything = [[m.content for m in record.messages], record.meta]
        assert f"Room {code} opens" not in json.dumps(everything)
        assert "do not hold" in record.messages[1].content
    assert {record["oracle_context"] for record in records} == {""}


def test_over_context_means_fewer_distractors(paths, server):
    put(paths)
    raft.run(paths, params(server, eval_share=0, context_length=520, oracle_probability=1, refusal_share=0))
    _, _, records, metrics = results(paths)
    assert metrics["shortened"] == metrics["train"] > 0
    assert metrics["tokens"]["max"] <= 520
    assert all(record["oracle_context"] in shown(record["instruction"]) for record in records)


def test_a_second_run_buys_nothing_and_gives_the_same_bytes(paths, server, tmp_path, monkeypatch):
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "cache"))
    put(paths)
    files = (paths.train, paths.records, paths.answers, paths.benchmark / "eval.jsonl", paths.metrics)
    raft.run(paths, params(server))
    first, asked = [path.read_bytes() for path in files], len(server.asked)
    raft.run(paths, params(server))
    assert [path.read_bytes() for path in files] == first
    assert len(server.asked) == asked == 80
    assert pq.read_table(paths.answers).num_rows == 80


def test_repeated_and_short_passages_are_left_out(paths, server):
    put(paths, documents=1)
    (paths.documents / "copy.md").write_text((paths.documents / "house-0.md").read_text())
    (paths.documents / "note.txt").write_text("Too short.")
    raft.run(paths, params(server, eval_share=0))
    metrics = results(paths)[3]
    assert (metrics["documents"], metrics["chunks"]) == (3, 8)
    assert metrics["dropped"]["duplicate_chunks"] == 8
    assert metrics["dropped"]["short_chunks"] >= 1


def test_no_documents_ask_nobody(paths):
    raft.run(
        paths, raft.Params(teacher=Teacher(model="gone"), endpoint=Endpoint(base_url="http://127.0.0.1:9/v1"))
    )
    assert results(paths)[:3] == ([], [], [])
    assert pq.read_table(paths.answers).num_rows == 0


def test_an_unreadable_document_leaves_nothing_behind(paths, server):
    put(paths)
    (paths.documents / "torn.pdf").write_bytes(b"%PDF-1.7 torn")
    with pytest.raises(InputError, match=r"torn\.pdf"):
        raft.run(paths, params(server))
    assert not server.asked
    assert not paths.train.exists()


@pytest.mark.parametrize(
    ("line", "question"),
    [
        ("1. Is it 8B or 70B?", "Is it 8B or 70B?"),
        ("8B or 70B?", "8B or 70B?"),
        ("  - 3.5 or 4?", "3.5 or 4?"),
        ("12) **Why 2 / 3?**", "Why 2 / 3?"),
        ('"Which of "a" and "b"?"', '"Which of "a" and "b"?"'),
        ("“Who?”", "Who?"),
        ("Q3: Where?", "Where?"),
        ("Question 4. When?", "When?"),
        ("1984. Who wrote it?", "1984. Who wrote it?"),
        ("'tis true?", "'tis true?"),
        ("* 1. Nested?", "Nested?"),
        ("", ""),
    ],
)
def test_numbering_goes_and_text_stays(line, question):
    assert cleaned(line) == question


def test_quotations_may_break_lines_and_wear_quotation_marks():
    chunk = "The bell is rung\nthree times before the ferry leaves."
    assert fault(cot_answer('"rung three  times"', "three"), "stop", chunk) is None
    assert fault(cot_answer("rung four times", "three"), "stop", chunk) == "quote_not_in_chunk"
    assert fault(cot_answer(" ", "three"), "stop", chunk) == "no_quote"
