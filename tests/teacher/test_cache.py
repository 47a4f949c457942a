import itertools
import json
import multiprocessing
import os
import random
import signal
import time
from concurrent.futures import Future
from dataclasses import fields, replace

import duckdb
import pyarrow
import pyarrow.parquet
import pytest

from stillroom.artifacts import canonical_json, sha256
from stillroom.errors import InputError
from stillroom.teacher import cache, spool
from stillroom.teacher.cache import Cache, Kept, Row
from stillroom.teacher.cache_file import MIGRATIONS, migrate
from stillroom.teacher.spool import spools

FORK = multiprocessing.get_context("fork")
PATIENCE = 300
"""seconds after which something hangs"""


def row(i, text="answer"):
    request = canonical_json({"i": i}).decode()
    return Row(sha256(request), request, f"{text} {i}", "stop", 1, 2, seconds=0.5)


def stored(path, rows):
    with Cache(path) as cache:
        return [f.result() for f in [cache.store(r) for r in rows]]


def test_what_was_stored_is_found_in_this_run_and_in_the_next(tmp_path):
    path = tmp_path / "c.duckdb"
    with Cache(path) as cache:
        cache.store(row(1)).result()
        assert row(1).key in cache
        assert cache.find_many([row(1).key])[row(1).key].text == "answer 1"
    with Cache(path) as cache:
        assert row(1).key in cache
        assert row(2).key not in cache
        assert cache.find_many([row(1).key])[row(1).key].text == "answer 1"
        assert cache.find_many([row(2).key]) == {}


def test_the_first_answer_counts(tmp_path):
    path = tmp_path / "c.duckdb"
    stored(path, [row(1, "first")])
    assert [r.text for r in stored(path, [row(1, "second"), row(2)])] == ["first 1", "answer 2"]


def test_no_kill_loses_what_store_took_nor_harms_the_file(tmp_path):
    """Runs killed at random moments, while they start, store, commit or rotate their spool."""
    path = tmp_path / "c.duckdb"
    noted = tmp_path / "noted"
    chance = random.Random(3)

    def work(run):
        spool.ROTATE_BYTES = 5_000
        log = os.open(noted, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        with Cache(path) as cache:
            for i in itertools.count():
                mine = row(f"{run}-{i}")
                cache.intend(mine.key)
                future = cache.store(mine)
                os.write(log, f"{mine.key}\n".encode())
                if i % 50 == 49:
                    future.result()

    noted.touch()
    for run in range(12):
        wanted = len(noted.read_text().split()) + chance.choice([0, 1, 40, 120])
        process = FORK.Process(target=work, args=(run,))
        process.start()
        deadline = time.monotonic() + PATIENCE
        while len(noted.read_text().split()) < wanted and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    keys = noted.read_text().split()
    assert len(keys) > 100
    with Cache(path) as cache:
        assert all(key in cache for key in keys)
        assert cache.find_many(keys).keys() == set(keys)
    assert not spools(path)


def test_processes_share_one_file_and_none_starves(tmp_path):
    path = tmp_path / "c.duckdb"
    done = FORK.Array("i", 3)
    when_the_first_ended = FORK.Array("i", 3)
    all_are_there = FORK.Barrier(3, timeout=PATIENCE)

    def work(who):
        with Cache(path) as cache:
            all_are_there.wait()
            for i in range(0, 300, 30):
                futures = [cache.store(row(i + j, str(who))) for j in range(30)]
                keys = [f.result(timeout=PATIENCE).key for f in futures]
                assert cache.find_many(keys).keys() == set(keys)
                done[who] += 30
            with when_the_first_ended:
                if not any(when_the_first_ended):
                    when_the_first_ended[:] = done[:]

    processes = [FORK.Process(target=work, args=(who,)) for who in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    assert [p.exitcode for p in processes] == [0, 0, 0]
    assert min(when_the_first_ended) >= 30, list(when_the_first_ended)
    assert Cache(path).stats()["answers"] == 300


def test_an_idle_run_does_not_hold_the_file(tmp_path):
    path = tmp_path / "c.duckdb"
    with Cache(path) as cache:
        cache.store(row(1)).result()
        assert Cache(path).stats()["answers"] == 1
        cache.store(row(2)).result()
        assert Cache(path).stats()["answers"] == 2


def test_a_snapshot_is_the_same_bytes_whoever_bought_the_answers(tmp_path):
    rows = [row(i) for i in range(50)]
    stored(tmp_path / "a.duckdb", rows)
    stored(tmp_path / "b.duckdb", [row(99), *reversed([row(i) for i in range(50)])])
    keys = [r.key for r in rows]
    assert Cache(tmp_path / "a.duckdb").export(keys, tmp_path / "a.parquet") == 50
    assert Cache(tmp_path / "b.duckdb").export(reversed(keys), tmp_path / "b.parquet") == 50
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_large_snapshot_is_sorted_in_parts_and_the_same_bytes_too(tmp_path, monkeypatch):
    rows = [row(i) for i in range(300)]
    stored(tmp_path / "a.duckdb", rows)
    stored(tmp_path / "b.duckdb", rows[::-1])
    keys = [r.key for r in rows]
    Cache(tmp_path / "a.duckdb").export(keys, tmp_path / "whole.parquet")
    monkeypatch.setattr(cache, "SORT_BYTES", 1_000)
    for name in "ab":
        Cache(tmp_path / f"{name}.duckdb").export(keys, tmp_path / f"{name}.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    a, whole = (duckdb.read_parquet(str(tmp_path / n)).fetchall() for n in ("a.parquet", "whole.parquet"))
    assert a == whole
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_snapshot_fills_another_cache_once(tmp_path):
    stored(tmp_path / "a.duckdb", [row(i) for i in range(5)])
    Cache(tmp_path / "a.duckdb").export([row(i).key for i in range(5)], tmp_path / "a.parquet")
    other = tmp_path / "elsewhere" / "c.duckdb"
    assert Cache(other).import_parquet(tmp_path / "a.parquet") == 5
    assert Cache(other).import_parquet(tmp_path / "a.parquet") == 0
    with Cache(other) as cache:
        found = cache.show(row(3).key)
    assert (found.text, found.completion_tokens, found.seconds) == ("answer 3", 2, None)


def test_an_empty_snapshot_is_a_file_too(tmp_path):
    assert Cache(tmp_path / "c.duckdb").export([], tmp_path / "none.parquet") == 0
    assert Cache(tmp_path / "d.duckdb").import_parquet(tmp_path / "none.parquet") == 0


def test_a_folder_that_cannot_be_written_says_which_and_the_way_out(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/c\.duckdb: .* cannot be written .*\n.*STILLROOM_CACHE"):
        Cache(tmp_path / "file" / "c.duckdb").stats()


def test_an_altered_or_foreign_snapshot_is_refused(tmp_path):
    stored(tmp_path / "a.duckdb", [row(1)])
    with Cache(tmp_path / "b.duckdb") as cache:
        cache.store(Row("0" * 64, "{}", "forged", "stop", 1, 1)).result()
    Cache(tmp_path / "b.duckdb").export(["0" * 64], tmp_path / "forged.parquet")
    with pytest.raises(InputError, match="does not match its request"):
        Cache(tmp_path / "a.duckdb").import_parquet(tmp_path / "forged.parquet")
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    with pytest.raises(InputError, match=r"x\.parquet: not a snapshot"):
        Cache(tmp_path / "a.duckdb").import_parquet(tmp_path / "x.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"key": ["0" * 64]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match=r"other\.parquet: not a snapshot .*request"):
        Cache(tmp_path / "a.duckdb").import_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match="no such file"):
        Cache(tmp_path / "a.duckdb").import_parquet(tmp_path / "absent.parquet")
    assert Cache(tmp_path / "a.duckdb").stats()["answers"] == 1


def test_an_export_of_what_is_not_there_leaves_no_file(tmp_path):
    with pytest.raises(InputError, match="1 answers are not in the cache"):
        Cache(tmp_path / "a.duckdb").export(["f" * 64], tmp_path / "a.parquet")
    assert not list(tmp_path.glob("*parquet*"))


def test_a_damaged_file_is_named_with_a_way_out(tmp_path):
    path = tmp_path / "c.duckdb"
    stored(path, [row(1)])
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(InputError, match=r"c\.duckdb: the response cache cannot be read(.|\n)*cache repair"):
        Cache(path).stats()


def test_a_failing_file_fails_those_who_wait_and_the_next_run_has_their_rows(tmp_path):
    path = tmp_path / "c.duckdb"
    stored(path, [row(1)])
    whole = path.read_bytes()
    with Cache(path) as cache:
        path.write_bytes(b"x" * len(whole))
        for i in (2, 3):
            with pytest.raises(InputError):
                cache.store(row(i)).result(timeout=PATIENCE)
        with pytest.raises(InputError):
            cache.find_many([row(1).key])
    path.write_bytes(whole)
    assert Cache(path).stats()["answers"] == 3


def test_a_failing_question_fails_alone(tmp_path):
    with Cache(tmp_path / "c.duckdb") as cache:
        with pytest.raises(InputError, match="not in the cache"):
            cache.export(["f" * 64], tmp_path / "out.parquet")
        with pytest.raises(InputError, match="no answer's key starts so"):
            cache.show("f")
        assert cache.store(row(1)).result(timeout=PATIENCE) == row(1)


def test_a_wish_that_was_given_up_is_kept_all_the_same(tmp_path):
    with Cache(tmp_path / "c.duckdb") as cache:
        cache.store(row(1)).cancel()
        cache.store(row(2)).result(timeout=PATIENCE)
        assert cache.find_many([row(1).key])


def test_a_file_of_version_1_is_brought_up_to_date_with_its_provenance(tmp_path):
    """Version 1's DDL and a row as it wrote them."""
    path = tmp_path / "c.duckdb"
    provenance = (
        '{"attempts":2,"endpoint":"http://localhost:8000/v1","request_id":"req-7","response":{"choices":'
        '[{"finish_reason":"stop","index":0,"message":{"role":"assistant"}}],"id":"chatcmpl-3","model":"m-0613",'
        '"system_fingerprint":"fp_1","usage":{"completion_tokens":5,"prompt_tokens":9}},"seconds":1.25,'
        '"time":1763733600.125}'
    )
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE migrations (version INTEGER PRIMARY KEY)")
        connection.execute(
            "CREATE TABLE responses (key VARCHAR PRIMARY KEY, request VARCHAR NOT NULL, text VARCHAR NOT "
            "NULL, finish_reason VARCHAR NOT NULL, prompt_tokens INTEGER NOT NULL, "
            "completion_tokens INTEGER NOT NULL, provenance VARCHAR)"
        )
        connection.execute("INSERT INTO migrations VALUES (1)")
        insert = "INSERT INTO responses VALUES (?, '{}', 'hello', 'stop', 9, 5, ?)"
        connection.executemany(insert, [[sha256("bought"), provenance], [sha256("imported"), None]])
    bought, imported = (Cache(path).show(sha256(name)) for name in ("bought", "imported"))
    document = json.loads(bought.response)
    assert document == json.loads(provenance)["response"]
    assert bought == Row(
        sha256("bought"),
        "{}",
        "hello",
        "stop",
        9,
        5,
        served_model="m-0613",
        fingerprint="fp_1",
        request_id="req-7",
        response_id="chatcmpl-3",
        endpoint="http://localhost:8000/v1",
        seconds=1.25,
        attempts=2,
        time=1763733600.125,
        response=bought.response,
    )
    assert imported == Row(sha256("imported"), "{}", "hello", "stop", 9, 5)
    assert stored(path, [row(1), replace(row(1), text="other")])[1] == row(1)


def test_every_earlier_schema_is_brought_up_to_date(tmp_path):
    for version in range(len(MIGRATIONS) + 1):
        path = tmp_path / f"{version}.duckdb"
        with duckdb.connect(str(path)) as connection:
            migrate(connection, version)
        assert stored(path, [row(1)]) == [row(1)]
        assert Cache(path).open_batches("e") == []


def test_a_newer_schema_is_left_alone(tmp_path):
    path = tmp_path / "c.duckdb"
    stored(path, [row(1)])
    with duckdb.connect(str(path)) as connection:
        connection.execute("INSERT INTO migrations VALUES (99)")
    with pytest.raises(InputError, match=r"c\.duckdb: written by a newer stillroom"):
        Cache(path).stats()


def test_strange_texts_come_back_as_they_went(tmp_path):
    texts = ["", "\x00nul", "🦙 ünï", "line\u2028sep\r\n", "'; DROP TABLE responses; --"]
    rows = [Row(sha256(t), t, t, "stop", 0, 0) for t in texts]
    stored(tmp_path / "c.duckdb", rows)
    with Cache(tmp_path / "c.duckdb") as cache:
        assert [cache.find_many([sha256(t)])[sha256(t)].text for t in texts] == texts


def test_all_fields_come_back_and_a_run_reads_only_what_it_needs(tmp_path):
    values = {"str": "t", "int": 3, "float": 0.25}
    full = Row(**{f.name: values[f.type.removesuffix(" | None")] for f in fields(Row)})
    with Cache(tmp_path / "c.duckdb") as cache:
        cache.store(full).result()
        assert cache.show("t") == full
        assert cache.store(replace(full, text="second")).result() == full
        assert cache.find_many(["t", "u"]) == {"t": Kept("t", "t", "t", 3, 3)}


def test_one_commit_takes_two_answers_to_one_request(tmp_path):
    with Cache(tmp_path / "c.duckdb") as cache:
        futures = [cache.store(replace(row(1), text=text)) for text in ("first", "second")]
        assert [f.result(timeout=PATIENCE).text for f in futures] == ["first", "first"]


def test_many_answers_are_found_at_once(tmp_path):
    rows = [row(i) for i in range(2_000)]
    with Cache(tmp_path / "c.duckdb") as cache:
        for future in [cache.store(r) for r in rows]:
            future.result(timeout=PATIENCE)
        found = cache.find_many(r.key for r in [*rows, row(-1)])
    assert {r.key: r.text for r in rows} == {key: r.text for key, r in found.items()}


def test_a_key_is_shown_by_its_first_characters(tmp_path):
    rows = [Row(key, "{}", key, "stop", 1, 1) for key in ("ab1", "ab2", "c")]
    stored(tmp_path / "c.duckdb", rows)
    cache = Cache(tmp_path / "c.duckdb")
    assert cache.show("C").text == "c"
    assert cache.show("ab2").text == "ab2"
    with pytest.raises(InputError, match="several answers' keys start so"):
        cache.show("ab")
    with pytest.raises(InputError, match="no answer's key starts so"):
        cache.show("d")


def test_use_is_counted_by_teacher_and_by_endpoint_and_time(tmp_path):
    def of(teacher, i, **known):
        request = canonical_json({"teacher": teacher, "i": i}).decode()
        return Row(sha256(request), request, "text", "stop", 10, i, **known)

    path = tmp_path / "c.duckdb"
    stored(
        path,
        [
            of("a", 1, endpoint="e", time=100.0, cost=0.5),
            of("a", 2, endpoint="e", time=200.0, cost=0.25),
            of("a/b", 3, endpoint="f", time=300.0),
            Row(sha256("x"), "x", "not ours", "stop", 1, 1),
        ],
    )
    cache = Cache(path)
    assert cache.usage_since("e", 150.0) == (1, 12)
    assert cache.usage_since("e", 100.0) == (2, 23)
    assert cache.usage_since("g", 0.0) == (0, 0)
    known = [(t.teacher, t.answers, t.cost, t.oldest, t.newest) for t in cache.teachers()]
    assert known == [("?", 1, None, None, None), ("a", 2, 0.75, 100, 200), ("a/b", 1, None, 300, 300)]
    assert len(cache.keys("a")) == 2
    assert len(cache.keys("a*")) == 3
    assert cache.keys("b") == []


def test_batches_are_remembered_until_they_are_closed(tmp_path):
    path = tmp_path / "c.duckdb"
    asked = [(f"key {i}", f"request {i}") for i in (3, 1, 2)]
    with Cache(path) as cache:
        cache.record_batch("batch 1", "e", asked)
        cache.record_batch("batch 2", "e", [])
        cache.record_batch("batch 3", "f", asked[:1])
    cache = Cache(path)
    assert cache.open_batches("e") == ["batch 1", "batch 2"]
    assert (cache.batch_requests("batch 1"), cache.batch_requests("batch 2")) == (asked, [])
    assert cache.keys_in_batches("e") == {key for key, _ in asked}
    cache.close_batch("batch 1", "expired")
    assert cache.open_batches("e") == ["batch 2"]
    assert cache.keys_in_batches("e") == set()
    assert cache.open_batches("f") == ["batch 3"]
    assert cache.batch_requests("batch 3") == asked[:1]


def test_a_killed_run_is_reported_once(tmp_path, capfd):
    path = tmp_path / "c.duckdb"

    def work():
        with Cache(path) as cache:
            for i in range(3):
                cache.intend(row(i).key)
            cache.store(row(0)).result()
            cache.withdraw(row(1).key)
            os.kill(os.getpid(), signal.SIGKILL)

    process = FORK.Process(target=work)
    process.start()
    process.join()
    for _ in range(2):
        assert Cache(path).stats()["answers"] == 1
    assert capfd.readouterr().err.count("1 requests were in flight") == 1


def calling(opened, function):
    """The future of a call, which `_do` waits for without end."""
    task = cache._Call(function, Future())
    opened._work.put(task)
    return task.future


def test_whatever_a_call_raises_reaches_who_waits_for_it(tmp_path):
    with Cache(tmp_path / "a.duckdb") as opened:
        with pytest.raises(ZeroDivisionError):
            calling(opened, lambda connection: 1 / 0).result(timeout=PATIENCE)
        assert opened.keys() == []
