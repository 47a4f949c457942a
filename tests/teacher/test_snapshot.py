from pathlib import Path

import yaml

from stillroom.artifacts import sha256
from stillroom.teacher import snapshot
from stillroom.teacher.cache import Cache, Row


def test_no_lock_no_entry_no_repository_and_nothing_pulled_are_nothing_to_restore(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data/answers.parquet"
    lock = tmp_path / "dvc.lock"
    cache = Cache(tmp_path / "c.duckdb")
    assert snapshot.restore(path, cache, lock) == 0
    lock.write_text(yaml.safe_dump({"schema": "2.0", "stages": {"raft": {"cmd": "x"}}}))
    assert snapshot.restore(path, cache, lock) == 0
    out = {"path": path.as_posix(), "md5": "0" * 32}
    lock.write_text(yaml.safe_dump({"stages": {"distill": {"outs": [out]}}}))
    assert snapshot.restore(path, cache, lock) == 0


def test_a_snapshot_that_is_still_there_is_taken_over(tmp_path):
    path = tmp_path / "answers.parquet"
    with Cache(tmp_path / "a.duckdb") as cache:
        cache.store(Row(sha256("q"), "q", "answer", "stop", 1, 1)).result()
    assert snapshot.write(path, cache, [sha256("q")]) == 1
    assert snapshot.restore(path, Cache(tmp_path / "b.duckdb")) == 1
    assert snapshot.restore(path, Cache(tmp_path / "b.duckdb")) == 0


def test_a_pulled_snapshot_is_taken_from_dvcs_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Cache(tmp_path / "a.duckdb") as cache:
        cache.store(Row(sha256("q"), "q", "answer", "stop", 1, 1)).result()
    md5 = "0123456789abcdef0123456789abcdef"
    snapshot.write(Path(".dvc/cache/files/md5") / md5[:2] / md5[2:], cache, [sha256("q")])
    out = {"path": "data/answers.parquet", "md5": md5}
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"distill": {"outs": [out]}}}))
    assert snapshot.restore(Path("data/answers.parquet"), Cache(tmp_path / "b.duckdb")) == 1
    assert Cache(tmp_path / "b.duckdb").find_many([sha256("q")])[sha256("q")].text == "answer"
