import json

import pytest
import torch
from forked import family_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM

from stillroom.errors import ParamsError
from stillroom.training import live
from stillroom.training.live import Live, operations
from stillroom.training.recipe import Recipe

pytestmark = pytest.mark.xdist_group("training")


def test_every_step_has_a_line_and_a_point_in_the_tracker(trained, tmp_path):
    trained("run", world=2, trackers=["tensorboard"], validate_every=2)
    lines = [json.loads(line) for line in (tmp_path / "logs/run/figures.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for number, line in enumerate(lines, 1):
        assert {"loss", "lr", "grad_norm", "tokens_per_second", "memory_gib"} <= line.keys()
        assert ("validation_loss" in line) == (number % 2 == 0)
    events = EventAccumulator(str(next((tmp_path / "logs/run").rglob("events.*")).parent)).Reload()
    assert [point.value for point in events.Scalars("loss")] == pytest.approx([x["loss"] for x in lines])


def test_a_tracker_whose_package_is_missing_is_named_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(live.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(live.dist, "get_world_size", lambda: 1)
    with pytest.raises(ParamsError, match="wandb is not installed"):
        Live(tmp_path, Recipe(trackers=["wandb"]), torch.device("cpu"))


@pytest.mark.parametrize("trained_share", [1, 0])
def test_operations_are_those_that_torch_counts(trained_share):
    """Matrices and attention; torch counts attention over all pairs, causal or not: twice as many."""
    from torch.utils.flop_counter import FlopCounterMode

    config = family_config("llama-tied")
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model.requires_grad_(bool(trained_share))
    ids = torch.randint(3, 300, (1, 64))
    states = model.get_input_embeddings()(ids).detach().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        model(inputs_embeds=states).logits.sum().backward()
    weights = sum(p.numel() for p in model.parameters())
    untied = weights + config.vocab_size * config.hidden_size
    counted = operations(config, untied, untied * trained_share, 64, 2 * 64**2)
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.01)
