import json
import time

import orjson
import pytest
from typer.testing import CliRunner

from stillroom.artifacts import canonical_json, sha256
from stillroom.cli import app
from stillroom.errors import InputError
from stillroom.teacher import cache_file
from stillroom.teacher.cache import Cache, Row


def row(i, teacher="vendor/large", **known):
    request = canonical_json({"teacher": teacher, "i": i}).decode()
    return Row(sha256(request), request, f"answer {i}", "stop", 1_000, 2, **known)


OLD = row(1, time=time.time() - 100 * 86400, endpoint="http://localhost/v1", cost=0.5, request_id="req-1")
NEW = row(2, time=time.time() - 10 * 86400)
OTHER = row(3, teacher="other")


@pytest.fixture(autouse=True)
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with cache_file.opened(cache_file.default_path()) as connection:
        cache_file.insert(connection, map(orjson.dumps, [OLD, NEW, OTHER]))
    return cache_file.default_path()


def stillroom(*words):
    done = CliRunner().invoke(app, ["cache", *words], catch_exceptions=True)
    if isinstance(done.exception, InputError):
        raise done.exception
    return done


def test_stats_by_teacher_and_in_all(path):
    lines = stillroom("stats").stdout.splitlines()
    place = lines.index("vendor/large")
    assert lines[place + 1].startswith("  answers 2, tokens 2,000 + 4, cost 0.5,")
    assert lines[lines.index("other") + 2] == "  bought from unknown to unknown"
    assert ["answers", "3"] in [line.split() for line in lines]
    assert lines[-1].split() == ["file", str(path)]


def test_show_gives_request_answer_and_provenance():
    shown = stillroom("show", OLD.key[:8]).stdout
    for part in (OLD.key, '"teacher": "vendor/large"', "answer 1", "req-1", "http://localhost/v1", " UTC"):
        assert part in shown
    assert "fingerprint" not in shown
    assert json.loads(stillroom("show", "--json", OLD.key).stdout)["cost"] == 0.5
    with pytest.raises(InputError, match="no answer's key starts so"):
        stillroom("show", "x")


def test_export_of_one_teacher_fills_another_cache_and_is_the_same_bytes_there(tmp_path, monkeypatch):
    assert stillroom("export", "a.parquet", "--teacher", "vendor/*").stdout == "a.parquet: 2 answers\n"
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "elsewhere"))
    assert stillroom("import", "a.parquet").stdout == "a.parquet: 2 new answers\n"
    assert stillroom("import", "a.parquet").stdout == "a.parquet: 0 new answers\n"
    stillroom("export", "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


@pytest.mark.parametrize(
    ("words", "gone"),
    [
        (["--older-than", "90d"], {OLD.key}),
        (["--older-than", "2w", "--teacher", "other"], set()),
        (["--teacher", "vendor/large"], {OLD.key, NEW.key}),
        (["--not-in", "kept.parquet"], {OTHER.key}),
    ],
)
def test_prune_says_what_would_go_and_does_it_when_told(tmp_path, words, gone):
    Cache().export([OLD.key, NEW.key], tmp_path / "kept.parquet")
    said = stillroom("prune", *words).stdout
    assert said.startswith(f"{len(gone)} answers would go")
    assert len(Cache().keys()) == 3
    assert stillroom("prune", *words, "--yes").stdout.startswith(f"{len(gone)} answers removed")
    assert set(Cache().keys()) == {OLD.key, NEW.key, OTHER.key} - gone


def test_an_export_of_nobody_names_the_teachers_and_writes_nothing(tmp_path):
    with pytest.raises(InputError, match=r"no answer of vendor/larg\n.*other, vendor/large"):
        stillroom("export", str(tmp_path / "none.parquet"), "--teacher", "vendor/larg")
    assert not (tmp_path / "none.parquet").exists()


def test_prune_wants_a_condition_and_an_age_it_understands():
    with pytest.raises(InputError, match="nothing says which"):
        stillroom("prune", "--yes")
    wrong = stillroom("prune", "--older-than", "soon")
    assert wrong.exit_code == 2
    assert "12h, 90d or 8w" in wrong.output


def test_repair_says_what_it_saved(path):
    assert stillroom("repair").stdout == "no damage: 3 answers\n"
    path.write_bytes(b"?" * path.stat().st_size)
    said = stillroom("repair").stdout
    assert said.startswith("nothing in it can be read")
    assert "responses.damaged-1.duckdb" in said
    assert path.with_name("responses.damaged-1.duckdb").is_file()
