"""Falcon on packed rows: its attention is not one that transformers lets be exchanged by name.

Its layers do not pass document boundaries on, so they are read off the positions, which begin anew at 0.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.falcon import modeling_falcon as falcon

from stillroom.errors import TrainingError
from stillroom.training.attention import NAME, packed_attention


class PackedFalconAttention(falcon.FalconAttention):  # type: ignore[misc]  # transformers is untyped here
    """Falcon's projections and rotary positions around `packed_attention`."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        alibi: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        **unused: Any,
    ) -> tuple[torch.Tensor, None]:
        """hidden_states (1, T, width) to the same. Raises TrainingError for ALiBi, which has no positions."""
        if alibi is not None:
            raise TrainingError("ALiBi is not supported on packed rows", where="config.json: alibi")
        heads = (x.transpose(1, 2) for x in self._split_heads(self.query_key_value(hidden_states)))
        query, key, value = heads
        query, key = falcon.apply_rotary_pos_emb(query, key, *position_embeddings)
        starts = torch.nonzero(position_ids[0] == 0).flatten()
        bounds = torch.cat([starts, starts.new_tensor([position_ids.shape[1]])]).to(torch.int32)
        attended, _ = packed_attention(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout.p if self.training else 0.0,
            cu_seq_lens_q=bounds,
            max_length_q=int(bounds.diff().max()),
        )
        return self.dense(attended.flatten(2)), None


falcon.FALCON_ATTENTION_CLASSES[NAME] = PackedFalconAttention
