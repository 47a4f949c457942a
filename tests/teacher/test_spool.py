import json
import multiprocessing
import os
import signal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.errors import InputError
from stillroom.teacher import spool
from stillroom.teacher.spool import Spool, frame, frames, replay, spools

FRAMES = st.lists(st.tuples(st.sampled_from(spool.KINDS), st.text().map(str.encode)), max_size=8)


def replayed(database):
    rows = []
    replay(database, rows.extend)
    return [orjson.loads(row) for row in rows]


def in_a_process_that_is_killed(function):
    def run():
        function()
        os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@given(FRAMES)
def test_frames_come_back_as_they_went(written):
    assert frames(b"".join(frame(*f) for f in written)) == (written, 0)


@given(FRAMES.filter(len), st.data())
def test_a_torn_tail_costs_the_last_frame_alone(written, data):
    whole = b"".join(frame(*f) for f in written)
    last = len(frame(*written[-1]))
    cut = data.draw(st.integers(1, last - 1)) if last > 1 else 1
    assert frames(whole[:-cut]) == (written[:-1], last - cut)


@given(FRAMES.filter(len), st.data())
def test_a_flipped_byte_costs_its_frame_alone(written, data):
    whole = bytearray(b"".join(frame(*f) for f in written))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    ends = [len(b"".join(frame(*f) for f in written[: i + 1])) for i in range(len(written))]
    hit = next(i for i, end in enumerate(ends) if place < end)
    assert frames(bytes(whole)) == (written[:hit] + written[hit + 1 :], len(frame(*written[hit])))


def test_a_killed_run_leaves_its_rows_and_a_word_on_what_was_in_flight(tmp_path, capsys):
    database = tmp_path / "c.duckdb"

    def work():
        mine = Spool(database)
        for key in "abcde":
            mine.intend(key)
        mine.row("a", orjson.dumps({"key": "a", "text": "ä"}))
        mine.row("b", orjson.dumps({"key": "b", "text": "committed"}))
        mine.forget(["b"])
        mine.withdraw("c")

    in_a_process_that_is_killed(work)
    assert replayed(database) == [{"key": "a", "text": "ä"}, {"key": "b", "text": "committed"}]
    assert (
        "2 requests were in flight when a run was killed: they may have been billed"
        in capsys.readouterr().err
    )
    assert not spools(database)
    assert replayed(database) == []
    assert capsys.readouterr().err == ""


def test_the_spool_of_a_live_run_is_left_alone(tmp_path):
    database = tmp_path / "c.duckdb"
    mine = Spool(database)
    mine.row("a", orjson.dumps({"key": "a"}))
    assert replayed(database) == []
    mine.forget(["a"])
    mine.close()
    assert not list(tmp_path.iterdir())


def test_what_could_not_be_committed_outlives_its_run(tmp_path):
    database = tmp_path / "c.duckdb"
    mine = Spool(database)
    mine.row("a", orjson.dumps({"key": "a"}))
    mine.close()
    assert replayed(database) == [{"key": "a"}]


def test_a_spool_stays_small_and_keeps_what_is_open(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "ROTATE_BYTES", 2_000)
    database = tmp_path / "c.duckdb"
    largest = []

    def work():
        mine = Spool(database)
        mine.intend("waiting")
        mine.row("open", orjson.dumps({"key": "open"}))
        for i in range(200):
            mine.row(str(i), orjson.dumps({"key": str(i), "text": "x" * 100}))
            mine.forget([str(i)])
            largest.append(sum(p.stat().st_size for p in spools(database)))
        assert max(largest) < 3_000, max(largest)

    in_a_process_that_is_killed(work)
    assert {"key": "open"} in replayed(database)


def test_a_damaged_spool_gives_what_is_whole_and_is_kept(tmp_path, capsys):
    database = tmp_path / "c.duckdb"
    good, bad = (frame(spool.ROW, json.dumps({"key": k}).encode()) for k in "ab")
    dead = tmp_path / "c.duckdb.spool-1-0"
    dead.write_bytes(good + b"?" + bad[1:] + good)
    assert replayed(database) == [{"key": "a"}]
    assert f"{len(bad)} bytes of a killed run's spool are damaged" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["c.duckdb.damaged-spool-1-0"]


def test_a_commit_that_fails_leaves_the_spool_for_the_next_time(tmp_path):
    database = tmp_path / "c.duckdb"
    mine = Spool(database)
    mine.row("a", orjson.dumps({"key": "a"}))
    mine.close()
    with pytest.raises(ZeroDivisionError):
        replay(database, lambda _: 1 / 0)
    assert replayed(database) == [{"key": "a"}]


def test_a_full_disk_is_an_error_and_no_torn_frame(tmp_path, monkeypatch):
    mine = Spool(tmp_path / "c.duckdb")
    mine.row("a", orjson.dumps({"key": "a"}))
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:5]))
    with pytest.raises(InputError, match="No space left"):
        mine.row("b", orjson.dumps({"key": "b"}))
    monkeypatch.undo()
    mine.row("c", orjson.dumps({"key": "c"}))
    mine.close()
    assert replayed(tmp_path / "c.duckdb") == [{"key": "a"}, {"key": "c"}]
