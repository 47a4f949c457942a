import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from mock_server import MockServer


@pytest.fixture
def server(tmp_path):
    """A server without latency or faults."""
    with MockServer(tmp_path / "bought.jsonl") as server:
        yield server


@pytest.fixture
def start(tmp_path):
    """Start servers with given settings; they end with the test."""
    running = []

    def start(**settings):
        server = MockServer(tmp_path / f"bought-{len(running)}.jsonl", **settings)
        running.append(server)
        return server.__enter__()

    yield start
    for server in running:
        server.__exit__()
