import json
import shutil
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from stillroom import recipes
from stillroom.cli import app
from stillroom.errors import ParamsError

ROOT = Path(__file__).parent.parent
NAMES = sorted(p.stem for p in (ROOT / "recipes").glob("*.yaml"))
PROMISED = {
    "tiny",
    "llama-2-7b-32k-instruct",
    "llama-2-7b-32k-chat",
    "raft-llama-3-8b",
    "pythia-chat-7b",
    "mixtral-8x7b-qlora",
    "llama-2-70b-qlora",
    "phi-2",
}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with the recipes and the params in force, as the current directory."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_promised_recipes_are_there():
    assert set(NAMES) >= PROMISED


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_valid_complete_and_described(name, checkout):
    path = recipes.path_of(name)
    recipes.check(path)
    assert len(recipes.description(path)) > 40
    before = path.read_text()
    recipes.complete(path)
    assert path.read_text() == before, "stillroom recipe complete"


@pytest.mark.parametrize("name", NAMES)
def test_the_json_schema_accepts_every_recipe_and_no_unknown_key(name, checkout):
    validator = Draft202012Validator(json.loads((ROOT / recipes.SCHEMA).read_text()))
    document = yaml.safe_load(recipes.path_of(name).read_text())
    assert [e.message for e in validator.iter_errors(document)] == []
    document["train"]["learning_rat"] = 1
    assert any("learning_rat" in e.message for e in validator.iter_errors(document))


def test_the_recipe_in_force_is_tiny(checkout):
    assert recipes.differences(recipes.path_of("tiny"), Path("params.yaml")) == []


def test_completing_keeps_every_value(checkout):
    path = Path("mine.yaml")
    path.write_text("# Mine\ncommon: {seed: 7}\ntrain: {lr: 0.5}\n" + _required())
    before = recipes.flat(path)
    recipes.complete(path)
    assert recipes.flat(path) == before
    assert (before["common.seed"], before["train.lr"]) == (7, 0.5)
    assert recipes.description(path) == "Mine"


def _required():
    """The blocks that have keys without a default, from the tiny recipe."""
    document = yaml.safe_load((ROOT / "recipes" / "tiny.yaml").read_text())
    return yaml.safe_dump({k: document[k] for k in ("fetch", "models", "evaluate")})


def test_an_unknown_block_names_the_nearest(checkout):
    Path("params.yaml").write_text("comon: {}\n")
    with pytest.raises(ParamsError, match=r"params\.yaml:1: comon.*\n.*`common`"):
        recipes.check(Path("params.yaml"))


def command(*words):
    return CliRunner().invoke(app, ["recipe", *words])


def test_use_and_diff_and_list(checkout):
    assert command("use", "phi-2").exit_code == 0
    assert recipes.differences(recipes.path_of("phi-2"), Path("params.yaml")) == []
    assert "* phi-2" in command("list").stdout
    assert "no differences" in command("diff", "phi-2").stdout
    assert "common.context_length" in command("diff", "tiny", "phi-2").stdout
    assert command("show", "tiny").stdout == (ROOT / "recipes" / "tiny.yaml").read_text()


def test_use_does_not_overwrite_params_that_no_recipe_has(checkout):
    text = Path("params.yaml").read_text().replace("seed: 42", "seed: 43")
    Path("params.yaml").write_text(text)
    refused = command("use", "phi-2")
    assert refused.exit_code == 1
    assert "--force" in str(refused.exception)
    assert Path("params.yaml").read_text() == text
    assert command("use", "phi-2", "--force").exit_code == 0


def test_a_misspelt_recipe_names_the_nearest(checkout):
    done = command("show", "phi2")
    assert done.exit_code == 1
    assert "`phi-2`" in str(done.exception)
