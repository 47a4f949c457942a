"""max_cost, end to end: a run stops before the cap, keeps what it paid for, and goes on from there."""

import json
import os
import subprocess
import sys

import duckdb
import pytest
import yaml

from stillroom.records import Conversation, Message, write_conversations
from stillroom.stages.distill import Paths

PRICE = {"prompt": 1000.0, "completion": 100_000.0}
"""an answer of the mock server is 4 tokens: 0.4, and its prompt some 0.05"""
MOST = 16 * 100_000 / 1e6 + 1
"""more than the bound of one request with max_tokens 16 and a prompt of a few hundred bytes"""


@pytest.fixture
def checkout(tmp_path):
    """A folder with 60 conversations of 2 turns."""
    rows = [
        Conversation(f"c{i:03}", "test", (Message("user", f"one {i}"), Message("user", f"two {i}")), {})
        for i in range(60)
    ]
    write_conversations(tmp_path / Paths().conversations, rows)
    return tmp_path


def distil(checkout, server, **endpoint):
    """Run the stage in a process of its own, as a user does."""
    endpoint = {"base_url": server.url, "prices": {"mock": PRICE}, **endpoint}
    sampling = {"max_tokens": 16, "temperature": 0.0}
    document = {
        "common": {"teacher": {"model": "mock"}},
        "endpoint": endpoint,
        "distill": {"sampling": sampling},
    }
    (checkout / "params.yaml").write_text(yaml.safe_dump(document))
    command = [sys.executable, "-m", "stillroom", "distill"]
    environment = {**os.environ, "STILLROOM_CACHE": str(checkout / "cache")}
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


def paid(checkout):
    """Answers in the cache, and what they cost."""
    with duckdb.connect(str(checkout / "cache/responses.duckdb"), read_only=True) as connection:
        return connection.execute("SELECT count(*), coalesce(sum(cost), 0) FROM responses").fetchall()[0]


def test_a_run_stops_before_the_cap_and_goes_on_when_it_is_raised(checkout, start):
    server = start(latency=0.01)
    first = distil(checkout, server, max_cost=20.0)
    assert first.returncode == 1
    assert first.stderr.count("error:") == 1
    assert "max_cost 20" in first.stderr
    assert "Traceback" not in first.stderr
    assert not (checkout / Paths().distilled).exists()
    answers, cost = paid(checkout)
    assert answers == len(server.bought())
    assert 20.0 - MOST < cost <= 20.0
    assert f"{cost:,.4f} spent" in first.stderr
    second = distil(checkout, server, max_cost=1000.0)
    assert second.returncode == 0, second.stderr
    bodies = [json.dumps(body, sort_keys=True) for body in server.bought()]
    assert len(bodies) == len(set(bodies)) == 120
    assert paid(checkout)[0] == 120
    assert len((checkout / Paths().distilled).read_text().splitlines()) == 60


def test_a_cap_that_the_rest_just_fits_is_no_obstacle(checkout, start):
    """Far less than the bound of all requests in flight together."""
    server = start()
    need = 120 * 0.5
    done = distil(checkout, server, max_cost=need + MOST, max_in_flight=64)
    assert done.returncode == 0, done.stderr
    assert paid(checkout)[1] <= need


def test_what_timed_out_counts_as_spent(checkout, start):
    server = start(faults={"slow": 1.0}, slow=30.0)
    done = distil(checkout, server, max_cost=10.0, timeout=0.3, max_attempts=50)
    assert done.returncode == 1
    assert "max_cost 10" in done.stderr
    assert "perhaps billed without an answer" in done.stderr
    spent = float(done.stderr.split(" tokens, ")[1].split(" spent")[0])
    assert 10.0 - MOST < spent <= 10.0
    assert paid(checkout) == (0, 0)


def test_a_cap_without_a_price_is_refused_at_once(checkout, start):
    server = start()
    done = distil(checkout, server, max_cost=10.0, prices={})
    assert done.returncode == 1
    assert "needs the price of 'mock'" in done.stderr
    assert server.bought() == []
