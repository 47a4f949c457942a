import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from stillroom.errors import ModelError, ParamsError
from stillroom.training.model import read_config
from stillroom.training.recipe import Rope

pytestmark = pytest.mark.xdist_group("training")


def frequencies(config):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return type(model.model.rotary_emb)(config).inv_freq


def test_rows_longer_than_the_positions_are_refused_with_the_factor_that_would_do(base):
    with pytest.raises(ModelError, match="rows hold 300 tokens, the model has positions for 128") as caught:
        read_config(base, None, 300)
    assert "factor: 3" in caught.value.hint


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_stretched_positions_are_written_into_the_config(base, kind):
    plain = read_config(base, None, 100)
    config = read_config(base, Rope(type=kind, factor=4), 500)
    assert config.max_position_embeddings == 512
    expected, _ = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    torch.testing.assert_close(frequencies(config), expected)
    ratio = frequencies(plain) / frequencies(config)
    assert ratio[-1] == pytest.approx(4, rel=1e-4)
    assert ratio[0] == pytest.approx(4 if kind == "linear" else 1, rel=1e-4)


def test_ntk_keeps_the_fastest_frequency_and_slows_the_slowest_by_the_factor(base):
    plain = frequencies(read_config(base, None, 100))
    slowed = frequencies(read_config(base, Rope(type="ntk", factor=4), 500))
    assert slowed[0] == plain[0]
    assert plain[-1] / slowed[-1] == pytest.approx(4, rel=1e-5)


def test_positions_are_stretched_once(base, tmp_path):
    read_config(base, Rope(factor=2), 200).save_pretrained(tmp_path)
    with pytest.raises(ParamsError, match="already stretched"):
        read_config(tmp_path, Rope(factor=2), 200)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ModelError, match="not a model folder"):
        read_config(tmp_path, None, 100)


def test_a_base_that_lacks_weights_is_refused(base, tmp_path, trained):
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    trained("run", base=tmp_path / "base")
    assert "lacks the weights 'model.layers.1.mlp.up_proj.weight'" in (tmp_path / "0.txt").read_text()


def test_unknown_adapter_targets_are_named(tmp_path, trained):
    trained("run", adapter="lora", lora={"targets": ["no_such_layer"]})
    assert "ParamsError: train.lora.targets" in (tmp_path / "0.txt").read_text()


def test_qlora_without_a_gpu_says_what_it_needs(tmp_path, trained):
    trained("run", adapter="qlora")
    assert "adapter `qlora` needs bitsandbytes and GPUs" in (tmp_path / "0.txt").read_text()
