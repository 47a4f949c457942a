import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from stillroom.training.optimizer import adamw, learning_rate
from stillroom.training.recipe import Recipe


def test_matrices_decay_and_norms_biases_embeddings_do_not():
    model = torch.nn.ModuleDict(
        {"embed": torch.nn.Embedding(5, 4), "linear": torch.nn.Linear(4, 4), "norm": torch.nn.LayerNorm(4)}
    )
    decay = {
        id(p): group["weight_decay"]
        for group in adamw(model, Recipe(weight_decay=0.1)).param_groups
        for p in group["params"]
    }
    found = {name: decay[id(p)] for name, p in model.named_parameters()}
    assert found.pop("linear.weight") == 0.1
    assert set(found.values()) == {0.0}
    assert len(found) == 4


@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)],
)
def test_schedules_are_those_of_transformers_one_step_into_the_warmup(schedule, theirs):
    recipe = Recipe(lr=2.0, schedule=schedule, warmup=5)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = theirs(optimizer, 5, 40)
    rates = []
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    ours = [learning_rate(recipe, step, 40) for step in range(40)]
    assert ours[:5] == pytest.approx(rates[1:6])
    assert ours[5:] == pytest.approx(rates[5:])


def test_warmup_may_be_a_share_of_the_steps():
    recipe = Recipe(lr=1.0, schedule="constant", warmup=0.1)
    assert [learning_rate(recipe, step, 20) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]
