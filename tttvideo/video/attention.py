"""Softmax attention between the tokens of one frame.

N frames, P tokens per frame, L tokens to look at, H heads, D head dim, C width.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class FrameAttention(nn.Module):
    """Each token looks at tokens of its frame, whose keys and values `look_at` makes."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} must be a multiple of the {heads} heads")
        self.heads = heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.kv_proj = nn.Linear(width, 2 * width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def look_at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (N, H, L, D) of tokens x (N, L, C)."""
        k, v = self.kv_proj(x).unflatten(-1, (2, self.heads, -1)).transpose(1, 3).unbind(2)
        return k, v

    def forward(self, x: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
        """x (N, P, C) to (N, P, C); seen: (P, L) True where a token sees another; None: all."""
        q = self.q_proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return self.o_proj(y.transpose(1, 2).flatten(2))
