import pytest
import torch

from stillroom.training.loss import summed_cross_entropy


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_loss_and_gradients_are_those_of_the_full_logits(chunk):
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 20).double()
    hidden = torch.randn(10, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([3, -100, 4, -100, -100, 19, 0, 7, -100, 2])
    ours = summed_cross_entropy(hidden, head, labels, chunk)
    found = torch.autograd.grad(ours, [hidden, *head.parameters()])
    full = torch.nn.functional.cross_entropy(head(hidden), labels, reduction="sum")
    expected = torch.autograd.grad(full, [hidden, *head.parameters()])
    torch.testing.assert_close(ours.double(), full, rtol=1e-6, atol=0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_without_labels_the_loss_is_zero_and_every_weight_has_a_gradient():
    head = torch.nn.Linear(8, 20)
    hidden = torch.randn(4, 8, requires_grad=True)
    loss = summed_cross_entropy(hidden, head, torch.full((4,), -100), 10)
    loss.backward()
    assert loss.item() == 0
    assert all((p.grad == 0).all() for p in (hidden, *head.parameters()))
