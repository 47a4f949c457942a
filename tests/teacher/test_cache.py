import multiprocessing
import os
import signal
import time

import duckdb
import pytest

from stillroom.artifacts import canonical_json, sha256
from stillroom.errors import InputError
from stillroom.teacher import cache as module
from stillroom.teacher import cache_file
from stillroom.teacher.cache import Cache, Row


def row(i, text="answer"):
    request = canonical_json({"i": i}).decode()
    return Row(sha256(request), request, f"{text} {i}", "stop", i, 2 * i, time=time.time())


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


def test_an_acknowledged_row_survives_kill_9(tmp_path):
    path = tmp_path / "c.duckdb"
    acknowledged = tmp_path / "acknowledged"

    def write():
        with Cache(path) as cache, acknowledged.open("a") as log:
            for i in range(100_000):
                log.write(cache.store(row(i)).result().key + "\n")
                log.flush()

    for _ in range(3):
        process = multiprocessing.get_context("fork").Process(target=write)
        process.start()
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    with Cache(path) as cache:
        keys = acknowledged.read_text().split()
        assert len(keys) > 10
        assert cache.find_many(keys).keys() == set(keys)


def test_two_processes_share_one_file(tmp_path):
    path = tmp_path / "c.duckdb"

    def write(who):
        with Cache(path) as cache:
            for i in range(0, 150, 10):
                futures = [cache.store(row(i + j, who)) for j in range(10)]
                assert all(f.result(timeout=20) for f in futures)

    processes = [multiprocessing.get_context("fork").Process(target=write, args=(w,)) for w in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [p.exitcode for p in processes] == [0, 0, 0]
    assert Cache(path).stats()["answers"] == 150


def test_an_idle_run_does_not_hold_the_file(tmp_path):
    path = tmp_path / "c.duckdb"
    with Cache(path) as cache:
        cache.store(row(1)).result()
        began = time.monotonic()
        assert Cache(path).stats()["answers"] == 1
        assert time.monotonic() - began < 1.0


def test_a_snapshot_is_the_same_bytes_whoever_bought_the_answers(tmp_path):
    rows = [row(i) for i in range(50)]
    stored(tmp_path / "a.duckdb", rows)
    stored(tmp_path / "b.duckdb", [row(99), *reversed([row(i) for i in range(50)])])
    keys = [r.key for r in rows]
    assert Cache(tmp_path / "a.duckdb").export(keys, tmp_path / "a.parquet") == 50
    assert Cache(tmp_path / "b.duckdb").export(reversed(keys), tmp_path / "b.parquet") == 50
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_snapshot_fills_another_cache_once(tmp_path):
    stored(tmp_path / "a.duckdb", [row(i) for i in range(5)])
    Cache(tmp_path / "a.duckdb").export([row(i).key for i in range(5)], tmp_path / "a.parquet")
    other = tmp_path / "elsewhere" / "c.duckdb"
    assert Cache(other).import_parquet(tmp_path / "a.parquet") == 5
    assert Cache(other).import_parquet(tmp_path / "a.parquet") == 0
    with Cache(other) as cache:
        found = cache.find_many([row(3).key])[row(3).key]
    assert (found.text, found.completion_tokens, found.time) == ("answer 3", 6, None)


def test_an_empty_snapshot_is_a_file_too(tmp_path):
    assert Cache(tmp_path / "c.duckdb").export([], tmp_path / "none.parquet") == 0
    assert Cache(tmp_path / "d.duckdb").import_parquet(tmp_path / "none.parquet") == 0


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


def test_a_failing_file_fails_those_who_wait_and_not_the_thread(tmp_path):
    path = tmp_path / "c.duckdb"
    with Cache(path) as cache:
        cache.store(row(1)).result()
        time.sleep(3 * module.IDLE_SECONDS)
        path.write_bytes(b"x" * path.stat().st_size)
        for i in (2, 3):
            with pytest.raises(InputError):
                cache.store(row(i)).result(timeout=5)


def test_every_earlier_schema_is_brought_up_to_date(tmp_path):
    for version in range(len(cache_file.MIGRATIONS) + 1):
        path = tmp_path / f"{version}.duckdb"
        with duckdb.connect(str(path)) as connection:
            connection.execute("CREATE TABLE migrations (version INTEGER PRIMARY KEY)")
            for number, step in enumerate(cache_file.MIGRATIONS[:version], 1):
                step(connection)
                connection.execute("INSERT INTO migrations VALUES (?)", [number])
        assert stored(path, [row(1)])[0].text == "answer 1"


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
