"""The API key is sent to the endpoint and shown nowhere else."""

import json
import os
import subprocess
import sys

import duckdb
import pytest
import yaml
from aiohttp import web

from stillroom.errors import ParamsError
from stillroom.params import Endpoint
from stillroom.records import Conversation, Message, write_conversations
from stillroom.stages.distill import Paths
from stillroom.teacher.cache import Row
from stillroom.teacher.keys import api_key, redacted, without

SECRET = "sk-proj-Ab3_very-secret-0123456789"


def test_the_environment_goes_before_the_file(tmp_path, monkeypatch):
    (tmp_path / "checkout").mkdir()
    monkeypatch.chdir(tmp_path / "checkout")
    monkeypatch.delenv("MY_KEY", raising=False)
    file = tmp_path / "key"
    file.write_text("from-the-file\n")
    endpoint = Endpoint(api_key_env="MY_KEY", api_key_file=str(file))
    assert api_key(endpoint) == "from-the-file"
    monkeypatch.setenv("MY_KEY", " from-the-environment ")
    assert api_key(endpoint) == "from-the-environment"
    monkeypatch.setenv("MY_KEY", "")
    file.write_text("\n")
    assert api_key(endpoint) is None
    assert api_key(Endpoint(api_key_env="MY_KEY")) is None


@pytest.mark.parametrize("name", ["key", "./secrets/../key", "link"])
def test_a_key_file_in_the_checkout_is_refused(tmp_path, monkeypatch, name):
    checkout = tmp_path / "checkout"
    (checkout / "secrets").mkdir(parents=True)
    (checkout / "key").write_text(SECRET)
    (tmp_path / "link").symlink_to(checkout / "key")
    monkeypatch.chdir(checkout)
    monkeypatch.delenv("MY_KEY", raising=False)
    file = str(tmp_path / name) if name == "link" else name
    with pytest.raises(ParamsError, match="inside the checkout") as caught:
        api_key(Endpoint(api_key_env="MY_KEY", api_key_file=file))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("content", [f"{SECRET}\nother", f"KEY = {SECRET}", f"{SECRET}é", f"{SECRET}\x00"])
def test_what_cannot_be_a_key_is_refused_and_not_shown(tmp_path, monkeypatch, content):
    file = tmp_path / "key"
    file.write_text(content)
    (tmp_path / "checkout").mkdir()
    monkeypatch.chdir(tmp_path / "checkout")
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ParamsError, match="not an API key") as caught:
        api_key(Endpoint(api_key_env="MY_KEY", api_key_file=str(file)))
    assert SECRET not in str(caught.value)


def test_an_absent_key_file_is_an_error(tmp_path, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ParamsError, match="cannot be read"):
        api_key(Endpoint(api_key_env="MY_KEY", api_key_file=str(tmp_path / "nowhere" / "key")))


def test_a_row_loses_the_key_wherever_the_endpoint_put_it():
    row = Row(
        "k", "what was asked", f"you are {SECRET}", "stop", 1, 1, request_id=SECRET, response=f"[{SECRET}]"
    )
    clean = without(SECRET, row)
    assert (clean.text, clean.request_id, clean.response) == ("you are ***", "***", "[***]")
    assert clean.served_model is None
    assert without("another", row) is row
    assert without(None, row) is row
    assert redacted("as it is", None) == "as it is"


def echoing(app, mock):
    """Routes that tell the key back: in headers and every field of an answer, and in errors."""

    def document(key):
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": f"Yes, {key}."},
        }
        usage = {"prompt_tokens": 5, "completion_tokens": 5, "note": key}
        return {
            "id": key,
            "model": key,
            "system_fingerprint": key,
            "usage": usage,
            "choices": [choice],
            "key": key,
        }

    async def answers(request):
        key = request.headers["Authorization"].removeprefix("Bearer ")
        if "fail" in await request.text():
            error = {"message": f"bad key {key}", "code": key, "param": key}
            return web.json_response({"error": error}, status=401, headers={"x-request-id": key})
        return web.json_response(document(key), headers={"x-request-id": key, "x-key": key})

    app.router.add_post("/v1/echo/chat/completions", answers)


def compressed(checkout, cache):
    """The rows of the cache and of the snapshot, whose bytes do not show their texts."""
    with duckdb.connect(str(cache / "responses.duckdb"), read_only=True) as connection:
        yield connection.execute("FROM responses").fetchall()
    if (answers := checkout / Paths().answers).exists():
        yield duckdb.execute("FROM read_parquet(?)", [str(answers)]).fetchall()


@pytest.mark.parametrize(
    ("route", "turn", "source"),
    [("", "log", "file"), ("/echo", "fine", "environment"), ("/echo", "fail", "file")],
)
def test_a_run_writes_and_prints_the_key_nowhere(start, tmp_path, route, turn, source):
    """A whole run: with the SDK's log at its most talkative, and against an endpoint that echoes the key."""
    checkout, outside = tmp_path / "checkout", tmp_path / "outside"
    checkout.mkdir()
    outside.mkdir()
    (outside / "key").write_text(SECRET)
    server = start(mount=(echoing,))
    endpoint = {"base_url": f"{server.url}{route}", "api_key_env": "MY_KEY", "max_attempts": 2}
    endpoint |= {"api_key_file": str(outside / "key")} if source == "file" else {}
    document = {"common": {"teacher": {"model": "mock"}}, "endpoint": endpoint}
    (checkout / "params.yaml").write_text(yaml.safe_dump(document))
    rows = [Conversation(f"c{i}", "test", (Message("user", f"{turn} {i}"),), {}) for i in range(3)]
    write_conversations(checkout / Paths().conversations, rows)
    environment = {name: value for name, value in os.environ.items() if name != "MY_KEY"}
    environment |= {
        "STILLROOM_CACHE": str(tmp_path / "cache"),
        "OPENAI_LOG": "debug" if turn == "log" else "",
    }
    environment |= {"MY_KEY": SECRET} if source == "environment" else {}
    done = subprocess.run(
        [sys.executable, "-m", "stillroom", "distill"],
        cwd=checkout,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == (1 if turn == "fail" else 0), done.stderr.decode()
    written = [
        path for folder in (checkout, tmp_path / "cache") for path in folder.rglob("*") if path.is_file()
    ]
    assert len(written) >= 3
    for path in written:
        assert SECRET.encode() not in path.read_bytes(), path
    for rows in compressed(checkout, tmp_path / "cache"):
        assert SECRET not in str(rows)
    assert SECRET.encode() not in done.stdout + done.stderr
    if turn == "fail":
        assert b"bad key ***" in done.stderr
    if turn == "fine":
        kept = json.loads((checkout / Paths().distilled).read_text().splitlines()[0])
        assert kept["messages"][1]["content"] == "Yes, ***."
