"""`stillroom plan --cost`; the plan itself is tested in tests/pipeline."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from stillroom.cli import app
from stillroom.commands import plan
from stillroom.errors import InputError
from stillroom.records import Conversation, Message, write_conversations

CONVERSATIONS = "data/interim/conversations.jsonl"


def stage(name, upstream=(), why="", **fields):
    return {
        "name": name,
        "upstream": list(upstream),
        "stale": bool(why),
        "why": why,
        "deps": [],
        "outs": [],
    } | fields


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout whose plan is what `stages` holds."""
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("dvc.yaml", "Snakefile"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    stages = [
        stage("extract", outs=[CONVERSATIONS]),
        stage("distill", ["extract"], "params changed", deps=[CONVERSATIONS]),
    ]
    monkeypatch.setattr(plan, "judge", lambda: stages)
    recipe(tmp_path)
    return tmp_path, stages


def recipe(folder, **endpoint):
    endpoint = {"base_url": "http://127.0.0.1:9/v1", **endpoint}
    block = {"sampling": {"max_tokens": 1000}}
    document = {"common": {"teacher": {"model": "mock"}}, "endpoint": endpoint, "distill": block}
    (folder / "params.yaml").write_text(yaml.safe_dump(document))


def conversations(folder, count):
    human = (Message("user", "Why is the sky blue?"),)
    write_conversations(
        folder / CONVERSATIONS, [Conversation(f"c{i}", "test", human, {"n": i}) for i in range(count)]
    )


def shown(*options):
    done = CliRunner().invoke(app, ["plan", "--cost", *options], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_a_stage_says_how_long_it_last_took(checkout):
    folder, _ = checkout
    bench = folder / "logs/bench"
    bench.mkdir(parents=True)
    (bench / "distill.tsv").write_text("s\th:m:s\n1.0\t0:00:01\n208.10\t0:03:28\n")
    (bench / "extract.tsv").write_text("s\th:m:s\n")
    done = CliRunner().invoke(app, ["plan"], catch_exceptions=False)
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.strip()}
    assert rows["distill"] == ["distill", "run", "3:28", "params", "changed"]
    assert rows["extract"] == ["extract", "fresh"]


def test_the_table_fits_80_columns_and_says_what_it_rests_on(checkout):
    folder, _ = checkout
    conversations(folder, 3)
    recipe(folder, prices={"mock": {"prompt": 1.0, "completion": 1000.0}}, max_cost=20)
    lines = shown().splitlines()
    row = next(line.split() for line in lines if line.startswith(" distill"))
    assert row[:3] == ["distill", "0", "1"]  # all ask the same
    assert row[-1] == "0.25–1.00"
    assert any("assumed" in line for line in lines)
    assert any("before it has spent 20" in line for line in lines)
    table = [line for line in lines if line.startswith(" ")]
    assert max(map(len, table)) <= 80


def test_json_has_stages_and_total(checkout):
    folder, stages = checkout
    conversations(folder, 2)
    stages[0] |= {"stale": True, "why": "sources modified"}
    found = json.loads(shown("--json"))
    assert found["stages"]["distill"]["after"] == ["extract"]
    estimate = found["stages"]["distill"]["estimate"]
    assert estimate["completion_tokens"] == {"low": 250, "high": 1000}
    assert estimate["cost"] is None
    assert found["total"]["requests"] == estimate["requests"] == {"low": 1, "high": 1}
    assert found["max_cost"] is None
    assert "which extract may change" in shown()
    assert "no price" in shown()


def test_a_stage_without_its_input_names_the_stages_to_run_first(checkout):
    found = json.loads(shown("--json"))
    assert found["stages"]["distill"]["first"] == ["extract"]
    assert found["total"] is None
    assert "first: stillroom run extract" in shown()


def test_what_is_wrong_with_the_cache_is_not_taken_for_a_missing_input(checkout, monkeypatch):
    folder, stages = checkout
    conversations(folder, 2)
    stages[1]["deps"].append("models/teacher")
    monkeypatch.setenv("STILLROOM_CACHE", str(folder / CONVERSATIONS))
    with pytest.raises(InputError, match="cannot be written"):
        shown()


def test_a_fresh_stage_asks_nothing_though_the_cache_is_empty(checkout):
    folder, stages = checkout
    conversations(folder, 2)
    stages[1] |= {"stale": False, "why": ""}
    assert json.loads(shown("--json"))["stages"]["distill"]["estimate"]["requests"] == {"low": 0, "high": 0}
    assert "fresh, asks nothing" in shown()


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0.00"), (0.01234, "0.0123"), (3.456, "3.46"), (12345.6, "12,346")]
)
def test_money(amount, text):
    assert plan.money(amount) == text


def test_nothing_is_written_into_the_checkout(checkout):
    folder, _ = checkout
    conversations(folder, 2)
    before = sorted(path for path in folder.rglob("*") if "cache" not in path.parts)
    shown()
    assert sorted(path for path in folder.rglob("*") if "cache" not in path.parts) == before
    assert Path.cwd() == folder


def test_the_widest_figures_fit_80_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    wide = {"low": 123_456_789_012, "high": 987_654_321_012}
    figures = {"cached": 123_456_789, "requests": wide, "prompt_tokens": wide, "completion_tokens": wide}
    figures["cost"] = {"low": 12_345.0, "high": 98_765.0}
    cost = {"state": "run", "after": [], "first": [], "estimate": {**figures, "basis": []}}
    plan.show_costs({"stages": {"distill": cost}, "total": figures, "max_cost": None})
    row = next(line for line in capsys.readouterr().out.splitlines() if "distill" in line)
    assert row.rstrip().endswith("123G–988G  12,345–98,765")
    assert len(row) <= 80
    monkeypatch.setenv("COLUMNS", "60")
    plan.show_costs({"stages": {"distill": cost}, "total": figures, "max_cost": None})
    narrow = capsys.readouterr().out
    assert max(map(len, narrow.splitlines())) <= 60
    assert {"123G–", "988G", "12,345–", "98,765"} <= set(narrow.split())  # no figure is cut


def test_judges_have_rows_of_their_own(checkout):
    folder, stages = checkout
    conversations(folder, 2)
    rows = [{"instruction": f"Do {i}.", "output": "Done."} for i in range(5)]
    data = folder / "data/benchmarks/alpaca_eval"
    data.mkdir(parents=True)
    (data / "set.json").write_text(json.dumps(rows))
    document = yaml.safe_load((folder / "params.yaml").read_text())
    document["evaluate"] = {"benchmarks": ["mqa", "alpaca_eval"], "alpaca_eval": {"judge": {"model": "gpt"}}}
    (folder / "params.yaml").write_text(yaml.safe_dump(document))
    for model, why in (("base", ""), ("tuned", "never run")):
        stages += [stage(f"evaluate@{model}-{name}", why=why) for name in ("mqa", "alpaca_eval")]
    found = json.loads(shown("--json"))
    requests = {name: cost["estimate"]["requests"]["high"] for name, cost in found["stages"].items()}
    assert requests == {"distill": 1, "evaluate@base-alpaca_eval": 0, "evaluate@tuned-alpaca_eval": 5}
    assert found["total"]["requests"]["high"] == 6
    assert " tuned-alpaca_eval " in shown()
