"""Sums of NLL against transformers' own loss, whatever a model makes of its head's logits."""

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from stillroom.benchmarks import pg19
from stillroom.errors import ModelError

SIZES = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}


def llama():
    return LlamaForCausalLM(LlamaConfig(**SIZES))


def capped():
    """Its logits are tanh of the head's."""
    config = Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=0.5, sliding_window=64)
    return Gemma2ForCausalLM(config)


def expected(model, sequence, length, overlap):
    """Σ NLL, window by window, by the model's own loss of the targets that count."""
    total = 0.0
    for start, end, counted in pg19.windows(len(sequence) - 1, length, overlap):
        ids = torch.tensor([sequence[start : end + 1]])
        labels = ids.clone()
        labels[:, : counted - start + 1] = -100
        with torch.inference_mode():
            total += model(input_ids=ids, labels=labels).loss.item() * (end - counted)
    return total


@pytest.mark.parametrize("build", [llama, capped])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_sums_are_those_of_the_models_own_loss(build, overlap, monkeypatch):
    torch.manual_seed(3)
    model, sequence = build().eval(), torch.randint(0, 61, (151,)).tolist()
    with torch.inference_mode():
        assert (pg19.head(model, torch.tensor([sequence[:8]])) is None) == (build is capped)
    found = pg19.score(model, sequence, 32, overlap, 96)
    assert found == pytest.approx(expected(model, sequence, 32, overlap), rel=1e-5)
    monkeypatch.setattr(pg19, "LOGITS", (7 * 4 * 61, 0))
    assert pg19.score(model, sequence, 32, overlap, 96) == pytest.approx(found, rel=1e-7)


@pytest.mark.parametrize("build", [llama, capped])
def test_batches_that_the_memory_does_not_hold_are_run_in_halves(build, monkeypatch):
    torch.manual_seed(3)
    model, sequence = build().eval(), torch.randint(0, 61, (151,)).tolist()
    whole = pg19.score(model, sequence, 8, 0.0, 64)
    forward, most, tried = model.base_model.forward, 3, []

    def small(*, input_ids, **settings):
        tried.append(len(input_ids))
        if len(input_ids) > most:
            raise torch.OutOfMemoryError
        return forward(input_ids=input_ids, **settings)

    monkeypatch.setattr(model.base_model, "forward", small)
    assert pg19.score(model, sequence, 8, 0.0, 64) == pytest.approx(whole, rel=1e-7)
    assert tried[2:] == [8, 4, *[2] * 9, 1]
    most = 0
    monkeypatch.setattr(pg19, "head", lambda model, probe: None)
    with pytest.raises(ModelError, match="a window of 8 tokens"):
        pg19.score(model, sequence, 8, 0.0, 64)
