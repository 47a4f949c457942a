"""max_cost, end to end: a run stops before the cap, keeps what it paid for, and goes on from there."""

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
import yaml

from stillroom import params
from stillroom.errors import BudgetError, ParamsError
from stillroom.records import Conversation, Message, write_conversations
from stillroom.stages.distill import Params, Paths, run

PRICE = {"prompt": 1000.0, "completion": 100_000.0}
"""an answer of the mock server is 4 tokens: 0.4, and its prompt some 0.05"""
MOST = 16 * 100_000 / 1e6 + 1
"""more than the bound of one request with max_tokens 16 and a prompt of a few hundred bytes"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with 60 conversations of 2 turns, to run the stage in."""
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rows = [
        Conversation(f"c{i:03}", "test", (Message("user", f"one {i}"), Message("user", f"two {i}")), {})
        for i in range(60)
    ]
    write_conversations(Paths().conversations, rows)
    return tmp_path


def recipe(server, **endpoint):
    """Write params.yaml."""
    document = {
        "common": {"teacher": {"model": "mock"}},
        "endpoint": {"base_url": server.url, "prices": {"mock": PRICE}, **endpoint},
        "distill": {"sampling": {"max_tokens": 16, "temperature": 0.0}},
    }
    Path("params.yaml").write_text(yaml.safe_dump(document))


def distil(server, **endpoint):
    """Run the stage."""
    recipe(server, **endpoint)
    run(Paths(), params.load("distill", Params))


def paid():
    """Answers in the cache, and what they cost."""
    with duckdb.connect("cache/responses.duckdb", read_only=True) as connection:
        return connection.execute("SELECT count(*), coalesce(sum(cost), 0) FROM responses").fetchall()[0]


def test_a_run_stops_before_the_cap_and_goes_on_when_it_is_raised(checkout, start):
    server = start(latency=0.01)
    recipe(server, max_cost=20.0)
    command = [sys.executable, "-m", "stillroom", "distill"]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 1
    assert first.stderr.count("error:") == 1
    assert "max_cost 20" in first.stderr
    assert "Traceback" not in first.stderr
    assert not Paths().distilled.exists()
    answers, cost = paid()
    assert answers == len(server.bought())
    assert 20.0 - MOST < cost <= 20.0
    assert f"{cost:,.4f} spent" in first.stderr
    distil(server, max_cost=1000.0)
    bodies = [json.dumps(body, sort_keys=True) for body in server.bought()]
    assert len(bodies) == len(set(bodies)) == 120
    assert paid()[0] == 120
    assert len(Paths().distilled.read_text().splitlines()) == 60


def test_a_cap_that_the_rest_just_fits_is_no_obstacle(checkout, start):
    """Far less than the bound of all requests in flight together."""
    need = 120 * 0.5
    distil(start(), max_cost=need + MOST, max_in_flight=64)
    assert paid()[0] == 120
    assert paid()[1] <= need


def test_what_timed_out_counts_as_spent(checkout, start, capfd):
    server = start(faults={"slow": 1.0}, slow=600.0)
    with pytest.raises(BudgetError, match="max_cost 10"):
        distil(server, max_cost=10.0, timeout=0.3, max_attempts=50)
    said = capfd.readouterr().err
    assert "perhaps billed without an answer" in said
    spent = float(said.split(" tokens, ")[1].split(" spent")[0])
    assert 10.0 - MOST < spent <= 10.0
    assert paid() == (0, 0)


def test_a_cap_without_a_price_is_refused_at_once(checkout, start):
    server = start()
    with pytest.raises(ParamsError, match="needs the price of 'mock'"):
        distil(server, max_cost=10.0, prices={})
    assert server.bought() == []
