import pytest
import torch

from stillroom.training import offload


@pytest.fixture
def moved(monkeypatch):
    """What the backward pass asked back: (device, tensor on the host), or a tensor that stayed."""
    found = []
    original = offload._back
    monkeypatch.setattr(offload, "SMALLEST", 10)
    monkeypatch.setattr(offload, "_back", lambda packed: found.append(packed) or original(packed))
    return found


def test_gradients_are_the_same_and_weights_stay_where_they_are(moved):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4))
    inputs = torch.randn(5, 8)
    model(inputs).square().sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with offload.offloaded():
        loss = model(inputs).square().sum()
    loss.backward()
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), expected, strict=True))
    sizes = {tuple(packed[1].shape) for packed in moved if isinstance(packed, tuple)}
    assert {(5, 8), (5, 16)} <= sizes
    weights = {p.data_ptr() for p in model.parameters()}
    assert any(p.data_ptr() in weights for p in moved if isinstance(p, torch.Tensor)), "kept, not copied"
