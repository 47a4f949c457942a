import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from stillroom.inference.sampling import distribution, draw, next_tokens, penalise
from stillroom.params import Sampling

SETTINGS = [
    Sampling(temperature=1.0, top_p=1.0, top_k=None),
    Sampling(temperature=0.3, top_p=1.0, top_k=7),
    Sampling(temperature=1.7, top_p=0.6, top_k=None),
    Sampling(temperature=0.9, top_p=0.8, top_k=20),
    Sampling(temperature=1.0, top_p=0.01, top_k=50),
    Sampling(temperature=1.0, top_p=1.0, top_k=10_000),
]


def logits(rows=6):
    return torch.randn(rows, 50, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 3


def expected(scores, sampling):
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    return warpers(torch.zeros(1, 1, dtype=torch.int64), scores[None]).softmax(-1)[0]


def test_each_row_has_the_distribution_that_transformers_gives_it_alone():
    scores = logits()
    probabilities, order = distribution(scores, SETTINGS)
    for i, sampling in enumerate(SETTINGS):
        ours = torch.zeros(50, dtype=torch.float64).scatter(0, order[i], probabilities[i])
        torch.testing.assert_close(ours / ours.sum(), expected(scores[i], sampling))


def test_repetition_penalty_is_that_of_transformers_row_by_row():
    scores, penalties = logits(3), [1.0, 1.3, 0.7]
    prompts = torch.tensor([[1, 2, 2, 40], [5, 6, 7, 8], [0, 49, 9, 3]])
    seen = torch.zeros(3, 50, dtype=torch.bool).scatter(1, prompts, True)
    ours = penalise(scores, seen, penalties)
    for i, penalty in enumerate(penalties):
        theirs = RepetitionPenaltyLogitsProcessor(penalty)(prompts[i : i + 1], scores[i : i + 1].clone())
        torch.testing.assert_close(ours[i : i + 1], theirs)


def test_draws_spread_over_tokens_as_their_probabilities():
    probabilities, order = distribution(logits(4)[3:], [SETTINGS[3]])
    count = 20_000
    draws = [(i + 0.5) / count for i in range(count)]
    tokens = draw(probabilities.expand(count, -1), order.expand(count, -1), draws)
    shares = torch.bincount(tokens, minlength=50) / count
    ideal = expected(logits(4)[3], SETTINGS[3])
    assert (shares - ideal).abs().max() < 2 / count
    assert int((shares > 0).sum()) == int((ideal > 0).sum()) > 2


@pytest.mark.parametrize("number", [0.0, 0.999999999999])
def test_the_ends_of_the_range_draw_a_token_that_is_allowed(number):
    scores = logits(1)
    [token] = next_tokens(scores, [Sampling(temperature=1, top_p=0.5, top_k=3)], None, [number]).tolist()
    assert token in scores[0].topk(3).indices.tolist()


def test_greedy_and_drawn_rows_stand_in_one_batch():
    scores = logits(2)
    sampling = [Sampling(temperature=0), Sampling(temperature=5, top_p=1, top_k=None)]
    tokens = next_tokens(scores, sampling, None, [0.99, 0.99]).tolist()
    assert tokens[0] == int(scores[0].argmax())
    assert tokens[1] != int(scores[1].argmax())
