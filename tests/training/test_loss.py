import pytest
import torch

from stillroom.training.loss import summed_losses


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_losses_and_gradients_are_those_of_the_full_logits(chunk, z_loss):
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 20).double()
    hidden = torch.randn(10, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([3, -100, 4, -100, -100, 19, 0, 7, -100, 2])
    ours = summed_losses(hidden, head, labels, chunk, z_loss)
    found = torch.autograd.grad(ours.sum(), [hidden, *head.parameters()])
    entropy = torch.nn.functional.cross_entropy(head(hidden), labels, reduction="sum")
    spread = z_loss * head(hidden)[labels >= 0].exp().sum(-1).log().square().sum()
    expected = torch.autograd.grad(entropy + spread, [hidden, *head.parameters()])
    torch.testing.assert_close(ours.double(), torch.stack([entropy, spread]), rtol=1e-6, atol=0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_without_labels_the_loss_is_zero_and_every_weight_has_a_gradient():
    head = torch.nn.Linear(8, 20)
    hidden = torch.randn(4, 8, requires_grad=True)
    losses = summed_losses(hidden, head, torch.full((4,), -100), 10)
    losses.sum().backward()
    assert losses.tolist() == [0, 0]
    assert all((p.grad == 0).all() for p in (hidden, *head.parameters()))
