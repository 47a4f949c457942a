"""`stillroom doctor` about endpoints: a server in this process lists its models, to those with the key."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from stillroom.benchmarks import harness
from stillroom.commands import doctor
from stillroom.endpoint_model import EndpointModel
from stillroom.errors import ParamsError


@pytest.fixture(scope="module")
def server():
    """Base URLs of an API that lists `gpt` and `ft:gpt`: as OpenAI does, and as Together does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            rows = [{"id": "gpt"}, {"id": "ft:gpt"}]
            odd = {"data": [None, {"name": "gpt"}]}
            body = {"/v1/models": {"data": rows}, "/bare/models": rows, "/odd/models": odd}.get(self.path)
            allowed = self.headers["Authorization"] == "Bearer right"
            self.send_response(200 if allowed and body else 401 if not allowed else 404)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


@pytest.fixture
def checkout(tmp_path, monkeypatch, server):
    """A folder of its own, and what writes its params.yaml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUDGE_API_KEY", "right")

    def recipe(base_url=f"{server}/v1", judge="gpt", **blocks):
        evaluate = {"models": ["tuned"], "benchmarks": ["alpaca_eval"]}
        evaluate |= {"alpaca_eval": {"judge": {"model": judge} if judge else None}}
        endpoint = {"judge": {"base_url": base_url}} if base_url else {}
        document = {"endpoint": endpoint, "evaluate": evaluate, **blocks}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(document))

    return recipe


def test_a_judge_that_answers(checkout, server):
    for path in ("v1", "bare"):
        checkout(f"{server}/{path}")
        assert list(doctor._judge()) == [
            ("ok", "JUDGE_API_KEY is set"),
            ("ok", f"{server}/{path} serves gpt"),
        ]


@pytest.mark.parametrize(
    ("path", "judge", "key", "level", "text"),
    [
        ("v1", "other", "right", "warn", "does not list 'other' among its 2 models"),
        ("odd", "gpt", "right", "warn", "does not list 'gpt'"),
        ("v1", "gpt", "wrong", "FAIL", "refuses the key"),
        ("nowhere", "gpt", "right", "warn", "answers 404 to a list of its models"),
    ],
)
def test_a_judge_that_cannot_be_asked(checkout, server, monkeypatch, path, judge, key, level, text):
    monkeypatch.setenv("JUDGE_API_KEY", key)
    checkout(f"{server}/{path}", judge)
    found = list(doctor._judge())[-1]
    assert found.level == level
    assert text in found.text


def test_a_judge_without_address_or_name_is_said(checkout):
    checkout(None)
    with pytest.raises(ParamsError, match="no address for the judge"):
        list(doctor._judge())
    checkout(judge=None)
    [finding] = doctor._guarded(doctor._judge)
    assert finding.level == "FAIL"
    assert "needs a judge" in finding.text


def test_models_at_endpoints_and_a_service_that_trains(checkout, server, tmp_path, monkeypatch):
    checkout()
    assert [finding.level for finding in doctor._models()] == ["ok"]
    model = EndpointModel(base_url=f"{server}/v1", api_key_env="TUNED_KEY", model="ft:gpt")
    model.write(tmp_path / "models/tuned")
    api = {"base_url": f"{server}/bare", "api_key_env": "JUDGE_API_KEY", "model": "gpt-5"}
    checkout(train={"backend": "api", "api": api})
    unset, refused, known, missing = doctor._models()
    assert unset == ("warn", "models/tuned: TUNED_KEY is not set")
    assert refused == ("FAIL", f"models/tuned: {server}/v1 refuses the key")
    assert known == ("ok", "train.api: JUDGE_API_KEY is set")
    assert missing.level == "warn"
    assert "'gpt-5'" in missing.text
    monkeypatch.setenv("TUNED_KEY", "right")
    assert next(f for f in doctor._models() if "serves" in f.text).text.endswith("serves ft:gpt")


@pytest.mark.parametrize("there", [True, False])
def test_an_extra_that_the_params_need_is_missed_before_the_run(tmp_path, monkeypatch, there):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(harness, "installed", lambda: there)
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "0.4.13")
    (tmp_path / "params.yaml").write_text("evaluate: {benchmarks: [pg19]}\n")
    assert [finding.level for finding in doctor._extras()] == ["ok"]
    (tmp_path / "params.yaml").write_text("evaluate: {benchmarks: [pg19, leaderboard]}\n")
    [found] = doctor._guarded(doctor._extras)
    assert (found.level, "[leaderboard]" in found.text) == (("ok", False) if there else ("FAIL", True))
