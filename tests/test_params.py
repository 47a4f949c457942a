import re
from typing import ClassVar

import pytest
from pydantic import model_validator

from stillroom import params
from stillroom.errors import ParamsError


class Inner(params.Settings):
    learning_rate: float = 1e-3
    """step size"""

    @model_validator(mode="after")
    def _possible(self):
        if self.learning_rate < 0:
            raise ValueError("impossible")
        return self


class Example(params.Block):
    common_keys: ClassVar = ("seed",)
    seed: int
    steps: int = 10
    """how many"""
    optimizer: Inner = Inner()
    """nested"""
    several: list[Inner] = []
    """a list of groups"""


@pytest.fixture
def write(tmp_path):
    def _write(text):
        path = tmp_path / "params.yaml"
        path.write_text(text)
        return path

    return _write


def load(path):
    return params.load("example", Example, path)


def test_common_keys_are_merged_and_defaults_filled(write):
    block = load(write("common: {seed: 7}\nexample: {steps: 3}\n"))
    assert (block.seed, block.steps, block.optimizer.learning_rate) == (7, 3, 1e-3)


def test_an_absent_block_is_all_defaults(write):
    assert load(write("common: {}\n")).steps == 10


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("example:\n  stepz: 3\n", ":2: example.stepz", "did you mean `steps`"),
        (
            "example:\n  optimizer:\n    learning_rat: 3\n",
            ":3: example.optimizer.learning_rat",
            "`learning_rate`",
        ),
        (
            "example:\n  several:\n  - learning_rat: 3\n",
            ":3: example.several.0.learning_rat",
            "`learning_rate`",
        ),
        ("example:\n  qqq: 3\n", ":2: example.qqq", "known keys: steps, optimizer, several"),
        ("example:\n  steps: many\n", ":2: example.steps", "'many'"),
        ("example:\n  seed: 1\n", ":2: example.seed", "common.seed"),
        ("common:\n  sead: 1\n", ":2: common.sead", "`seed`"),
        ("example: [1]\n", ":1: example", "dictionary"),
        ("common: {}\nexampel: {steps: 3}\n", ":2: exampel", "did you mean `example`"),
        ("common: {}\ndistil: {samples: 3}\n", ":2: distil", "did you mean `distill`"),
        ("example: {optimizer: {learning_rate: -1}}\n", ":1: example.optimizer", "impossible\n"),
        ("a: [\n", "", "not valid YAML"),
        ("- 1\n", "", "mapping"),
    ],
)
def test_a_mistake_is_named_with_line_and_nearest_key(write, text, where, message):
    path = write(text)
    with pytest.raises(ParamsError) as raised:
        load(path)
    assert str(raised.value).startswith(f"{path}{where}")
    assert message in f"{raised.value}\n"


@pytest.mark.parametrize(
    ("block", "line", "bad", "good"),
    [
        (params.Endpoint, "base_url", "localhost:8000/v1", "http://localhost:8000/v1"),
        (params.Endpoint, "base_url", "https:///v1", "https://[::1]/v1"),
        (params.Endpoint, "base_url", "https://joe:secret@host/v1", "https://host:80/v1"),
        (params.Endpoint, "max_in_flight", "0", "1"),
        (params.Sampling, "max_tokens", "0", "1"),
        (params.Sampling, "temperature", "-0.1", "0"),
        (params.Sampling, "top_p", "1.1", "1"),
        (params.Sampling, "top_k", "-2", "-1"),
        (params.Sampling, "repetition_penalty", "0", "null"),
    ],
)
def test_what_no_endpoint_would_take_is_refused_before_it_is_asked(write, block, line, bad, good):
    params.load("block", block, write(f"block:\n  {line}: {good}\n"))
    path = write(f"block:\n  {line}: {bad}\n")
    with pytest.raises(ParamsError, match=re.escape(f"{path}:2: block.{line}: ")) as raised:
        params.load("block", block, path)
    assert "secret" not in str(raised.value)


def test_no_params_file_says_what_to_do(tmp_path):
    with pytest.raises(ParamsError, match="stillroom recipe use tiny"):
        load(tmp_path / "params.yaml")


def test_a_block_is_frozen(write):
    with pytest.raises(ValueError, match="frozen"):
        load(write("example: {}\n")).steps = 5
