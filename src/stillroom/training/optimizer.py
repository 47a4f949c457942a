"""AdamW with weight decay where it belongs, and the learning rate of each step."""

from __future__ import annotations

import math

import torch
from torch import nn

from stillroom.training.recipe import Recipe


def adamw(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over the trainable weights: matrices decay; norms, biases and embeddings do not."""
    spared = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1 and id(p) not in spared]
    rest = [p for p in trained if p.ndim <= 1 or id(p) in spared]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=recipe.lr, betas=recipe.betas, fused=True)


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The rate of a step (from 0): a linear rise, then constant, or linear or cosine towards 0 at the end."""
    warmup = round(recipe.warmup * steps) if recipe.warmup < 1 else round(recipe.warmup)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    shares = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}
    return recipe.lr * shares[recipe.schedule]
