"""What the backward pass needs, kept in the host's memory until then.

with offloaded():
    loss = model(batch)
loss.backward()
"""

from __future__ import annotations

import torch
from torch import nn

SMALLEST = 1 << 16
"""elements; what is smaller stays where it is"""
Packed = torch.Tensor | tuple[torch.device, torch.Tensor]


def offloaded() -> torch.autograd.graph.saved_tensors_hooks:
    """Moves saved activations to the host; weights, which FSDP gathers and frees for itself, stay."""
    return torch.autograd.graph.saved_tensors_hooks(_to_host, _back)


def _to_host(tensor: torch.Tensor) -> Packed:
    is_weight = isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)
    if is_weight or tensor.numel() < SMALLEST:
        return tensor
    host = torch.empty(
        tensor.size(), dtype=tensor.dtype, layout=tensor.layout, device="cpu", pin_memory=tensor.is_cuda
    )
    return tensor.device, host.copy_(tensor, non_blocking=tensor.is_cuda)


def _back(packed: Packed) -> torch.Tensor:
    if isinstance(packed, torch.Tensor):
        return packed
    device, host = packed
    return host.to(device, non_blocking=True)
