import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from stillroom import chat_format
from stillroom.errors import EndpointError, ModelError, ParamsError
from stillroom.params import Endpoint, Teacher
from stillroom.teacher.embedded import serving
from stillroom.training.tiny import build_model, build_tokenizer
from stillroom.training.tiny_recipe import TinyModel

PATIENCE = 300
"""seconds after which something hangs"""
SOURCE = Path(__file__).parents[2] / "src"
PARENT = """
import sys, time
from pathlib import Path
from stillroom.params import Endpoint, Teacher
from stillroom.teacher.embedded import serving
with serving(Teacher(), Endpoint(), Path(sys.argv[1])) as url:
    print(url, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("embedded")
    chat = chat_format.get("inst")
    tokenizer = build_tokenizer(["The quick brown fox."], 300, chat)
    sizes = TinyModel(vocabulary=300, hidden_size=16, intermediate_size=16, layers=1, positions=64)
    build_model(sizes, tokenizer, seed=0).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def answers(url):
    """Whether the server at the base URL answers."""
    try:
        with urllib.request.urlopen(f"{url}/models", timeout=PATIENCE) as response:
            return bool(json.load(response)["data"])
    except OSError:
        return False


def soon(condition):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_a_remote_teacher_is_only_named(tmp_path):
    remote = Endpoint(base_url="http://10.0.0.1:8000/v1")
    with serving(Teacher(model="big"), remote, tmp_path) as url:
        assert url == "http://10.0.0.1:8000/v1"


@pytest.mark.parametrize(
    ("teacher", "endpoint"),
    [(Teacher(model="big"), Endpoint()), (Teacher(), Endpoint(base_url="http://10.0.0.1/v1"))],
)
def test_a_name_and_an_address_that_contradict_each_other_are_an_error(tmp_path, teacher, endpoint):
    with pytest.raises(ParamsError, match="only the embedded"), serving(teacher, endpoint, tmp_path):
        pass


def test_a_folder_without_a_model_is_an_error(tmp_path):
    (tmp_path / "README.md").write_text("remote")
    with pytest.raises(ModelError, match="the embedded one"), serving(Teacher(), Endpoint(), tmp_path):
        pass


def use_and_fail(folder, seen):
    with serving(Teacher(), Endpoint(), folder) as url:
        seen.append(url)
        body = {"model": "embedded", "messages": [{"role": "user", "content": "fox"}], "temperature": 0}
        data = json.dumps({**body, "max_tokens": 3}).encode()
        with urllib.request.urlopen(f"{url}/chat/completions", data=data) as response:
            assert json.load(response)["usage"]["completion_tokens"] <= 3
        raise RuntimeError("stage failed")


def test_the_server_lives_as_long_as_the_block_also_when_that_fails(folder):
    seen: list[str] = []
    with pytest.raises(RuntimeError, match="stage failed"):
        use_and_fail(folder, seen)
    assert not answers(seen[0])


def test_a_server_that_dies_is_an_error_with_its_last_words(folder, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with (
        pytest.raises(EndpointError, match="exit code 1") as caught,
        serving(Teacher(), Endpoint(), tmp_path),
    ):
        pass
    assert "no causal model" in (caught.value.hint or "")


def test_the_server_ends_when_its_parent_is_killed(folder):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    assert parent.stdout is not None
    with parent.stdout:
        url = parent.stdout.readline().decode().strip()
        assert answers(url)
        parent.kill()
        parent.wait()
        assert soon(lambda: not answers(url))
