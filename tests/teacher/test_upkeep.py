import os
import random
from dataclasses import replace

import duckdb
import orjson
import pytest

from stillroom.artifacts import canonical_json, sha256
from stillroom.errors import InputError
from stillroom.teacher import cache_file
from stillroom.teacher.cache import Cache, Row
from stillroom.teacher.upkeep import Choice, Sum, prune, repair, would_go


def row(i, teacher="m", **known):
    request = canonical_json({"teacher": teacher, "i": i}).decode()
    return Row(sha256(request), request, f"answer {i}", "stop", 1, 2, **known)


def filled(path, rows):
    with cache_file.opened(path) as connection:
        cache_file.insert(connection, map(orjson.dumps, rows))
    return path


def noise(i, size=2_000):
    """A row that does not compress: its columns fill blocks of the file."""
    dice = random.Random(i)
    request = canonical_json({"i": i, "noise": dice.randbytes(size).hex()}).decode()
    return Row(
        sha256(request), request, dice.randbytes(200).hex(), "stop", 1, 2, response=dice.randbytes(900).hex()
    )


def keys(path):
    return set(Cache(path).keys())


@pytest.fixture
def shelf(tmp_path):
    """Answers of two teachers, bought at 100 and 200, one of them imported; the first one in a snapshot."""
    rows = [row(1, "a", time=100.0, cost=0.5), row(2, "a", time=200.0), row(3, "b", time=100.0), row(4, "b")]
    path = filled(tmp_path / "c.duckdb", rows)
    Cache(path).export([rows[0].key], tmp_path / "kept.parquet")
    Cache(path).record_batch("batch", "e", [("k", "r")])
    return path


@pytest.mark.parametrize(
    ("choice", "stay"),
    [
        (Choice(teacher="a"), {3, 4}),
        (Choice(teacher="*"), set()),
        (Choice(teacher="c"), {1, 2, 3, 4}),
        (Choice(before=150.0), {2, 4}),
        (Choice(teacher="b", before=150.0), {1, 2, 4}),
        (Choice(not_in=["kept.parquet"]), {1}),
        (Choice(not_in=["kept.parquet"], before=150.0), {1, 2, 4}),
    ],
)
def test_prune_removes_what_meets_all_conditions_and_says_so_before(shelf, choice, stay):
    choice = replace(choice, not_in=[shelf.with_name(name) for name in choice.not_in])
    before = keys(shelf)
    gone = would_go(shelf, choice)
    assert keys(shelf) == before
    assert prune(shelf, choice) == gone
    assert gone.answers == 4 - len(stay)
    assert keys(shelf) == {row(i, "a" if i < 3 else "b").key for i in stay}
    assert Cache(shelf).open_batches("e") == ["batch"]
    assert Cache(shelf).batch_requests("batch") == [("k", "r")]
    assert not list(shelf.parent.glob(".*fresh*"))


def test_prune_sums_up_what_goes(shelf):
    size = sum(len(r.request) + len(r.text) for r in (row(1, "a"), row(2, "a")))
    assert would_go(shelf, Choice(teacher="a")) == Sum(2, 6, 0.5, size)


def test_prune_gives_the_space_back(tmp_path):
    path = filled(tmp_path / "c.duckdb", [noise(i) for i in range(500)])
    before = path.stat().st_size
    prune(path, Choice(teacher="*"))
    assert path.stat().st_size < before / 2
    filled(path, [noise(1)])
    assert keys(path) == {noise(1).key}


def test_prune_takes_everything_only_when_told_to_and_no_strange_file(shelf, tmp_path):
    with pytest.raises(InputError, match="nothing says which"):
        prune(shelf, Choice())
    with pytest.raises(InputError, match=r"x\.parquet: no such file"):
        prune(shelf, Choice(not_in=[tmp_path / "x.parquet"]))
    (tmp_path / "x.parquet").write_bytes(b"?")
    with pytest.raises(InputError, match=r"x\.parquet: not a snapshot"):
        prune(shelf, Choice(not_in=[tmp_path / "x.parquet"]))
    assert len(keys(shelf)) == 4


def test_a_sound_file_needs_no_repair(shelf):
    done = repair(shelf)
    assert (done.answers, done.kept) == (4, None)
    with pytest.raises(InputError, match="no such file"):
        repair(shelf.with_name("none.duckdb"))


def flip(path, block):
    """Damage a block of 256 KiB, as DuckDB numbers them, behind the three headers."""
    data = bytearray(path.read_bytes())
    data[3 * 4096 + (block << 18) + 1000] ^= 0xFF
    path.write_bytes(data)
    return data


def blocks(path, column):
    with cache_file.connected(path) as connection:
        query = (
            "SELECT block_id FROM pragma_storage_info('responses') WHERE column_name = ? AND block_id >= 0"
        )
        return [
            block
            for (block,) in connection.execute(f"{query} ORDER BY row_group_id, start", [column]).fetchall()
        ]


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    rows = [noise(i) for i in range(450)]
    return filled(tmp_path_factory.mktemp("noisy") / "c.duckdb", rows), rows


@pytest.mark.parametrize(
    ("column", "number", "most"),
    [("request", 1, 150), ("response", 1, 0), ("key", 0, 450)],
)
def test_a_flipped_byte_costs_the_answers_of_its_block_alone(tmp_path, noisy, column, number, most):
    whole, rows = noisy
    path = tmp_path / "c.duckdb"
    path.write_bytes(whole.read_bytes())
    damaged = flip(path, blocks(whole, column)[number])
    done = repair(path)
    found = Cache(path).find_many(r.key for r in rows)
    assert len(found) == done.answers == len(rows) - done.unreadable
    assert done.unreadable <= most
    assert all(found[r.key].text == r.text for r in rows if r.key in found)
    assert done.kept.read_bytes() == damaged
    filled(path, rows)
    assert keys(path) == {r.key for r in rows}


def test_a_file_that_does_not_open_is_kept_and_the_next_run_starts_anew(tmp_path):
    path = filled(tmp_path / "c.duckdb", [row(1)])
    garbage = os.urandom(path.stat().st_size)
    for number in (1, 2):
        path.write_bytes(garbage)
        done = repair(path)
        assert (done.answers, done.kept.name) == (0, f"c.damaged-{number}.duckdb")
        assert done.kept.read_bytes() == garbage
        filled(path, [row(2)])
        assert keys(path) == {row(2).key}


def test_a_damaged_write_ahead_log_costs_what_is_in_it_alone(tmp_path):
    path = filled(tmp_path / "c.duckdb", [row(1)])
    with cache_file.connected(path) as connection:
        connection.execute("PRAGMA disable_checkpoint_on_shutdown")
        cache_file.insert(connection, [orjson.dumps(row(2))])
    wal = path.with_name("c.duckdb.wal")
    wal.write_bytes(b"?" * wal.stat().st_size)
    repair(path)
    assert row(1).key in keys(path)


def test_a_damaged_file_of_version_1_keeps_its_provenance(tmp_path):
    path = tmp_path / "c.duckdb"
    rows = [noise(i) for i in range(300)]
    with duckdb.connect(str(path)) as connection:
        cache_file.migrate(connection, 1)
        insert = "INSERT INTO responses VALUES (?, ?, ?, 'stop', 1, 2, '{\"attempts\": 7}')"
        connection.executemany(insert, [[r.key, r.request, r.text] for r in rows])
    flip(path, blocks(path, "request")[0])
    done = repair(path)
    assert 0 < done.unreadable < 150
    assert done.answers == 300 - done.unreadable
    assert Cache(path).show(next(iter(keys(path)))).attempts == 7
