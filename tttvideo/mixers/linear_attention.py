"""Linear attention: a memory of constant size, to which every token adds key times value.

It makes the first two steps from linear attention to TTT in the paper (arXiv 2407.04620, table 1).
The other parts are those of a TTT layer without a gate and convolutions: projections of the same
names, rotary positions on q and k, and a LayerNorm of the output.

B batch, T tokens, H heads, D head dim, C width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from tttvideo.kernels.baselines.linear_attention import CHUNK, linear_attention
from tttvideo.layers import rotary_table, rotate
from tttvideo.states import state_dataclass

from .mixer import Address, Grid, Mixer, check_whole, frame_size


EPS = 1e-6


@dataclass
class LinearAttentionConfig:
    normalise: bool = True
    """Read an average, weighted with the positive features elu + 1 of q and k (arXiv 2006.16236);
    else a plain sum, weighted with q . k."""
    rope_theta: float = 10000.0
    """Base of the rotary positions."""
    causal: bool | None = None
    """A token reads what tokens up to it wrote; false: what its whole frame wrote; null:
    true in the backbone of tokens, false in the frame model."""


@state_dataclass
class LinearAttentionState:
    """The sum of k^T v, (B, H, D, D), in float32 or float64, and the number of tokens read.

    With `normalise` the memory has one more column, the sum of k.
    """

    memory: Tensor
    seen: int


class LinearAttention(Mixer[LinearAttentionState]):
    """The mixer "linear_attention"."""

    def __init__(
        self, width: int, heads: int, config: LinearAttentionConfig, grid: Grid | None = None
    ):
        super().__init__()
        if width % heads or (width // heads) % 2:
            raise ValueError(f"width {width} over {heads} heads must give an even head dim")
        self.frame = frame_size("linear_attention", config.causal, grid)
        self.config, self.heads, self.head_dim = config, heads, width // heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.post_norm = nn.LayerNorm(width, eps=1e-6)

    def init_state(self, batch: int) -> LinearAttentionState:
        weight, D = self.o_proj.weight, self.head_dim
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        shape = batch, self.heads, D, D + self.config.normalise
        return LinearAttentionState(weight.new_zeros(shape, dtype=dtype), 0)

    def forward(
        self,
        x: Tensor,
        state: LinearAttentionState | None = None,
        address: Address | None = None,
    ) -> tuple[Tensor, LinearAttentionState]:
        check_whole(x.shape[1], self.frame)
        state = self.init_state(len(x)) if state is None else state
        q, k, v = self.views(x, state.seen, address)
        with torch.autocast(x.device.type, enabled=False):
            q, k, v = (y.transpose(1, 2).to(state.memory.dtype) for y in (q, k, v))
            y, memory = self.read(q, k, v, state.memory)
        y = self.post_norm(rearrange(y.to(x.dtype), "b h t d -> b t (h d)"))
        return self.o_proj(y), LinearAttentionState(memory, state.seen + x.shape[1])

    def views(self, x: Tensor, seen: int, address: Address | None) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v (B, T, H, D); q and k of the content are rotated."""
        if address:
            projected = self.k_proj(address.query), self.k_proj(address.key), self.v_proj(x)
        else:
            projected = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        q, k, v = (rearrange(y, "b t (h d) -> b t h d", h=self.heads) for y in projected)
        if address:
            return q, k, v
        places = torch.arange(seen, seen + x.shape[1], device=x.device)
        angles = rotary_table(places, self.head_dim // 2, self.config.rope_theta)
        return rotate(q, angles), rotate(k, angles), v

    def read(self, q: Tensor, k: Tensor, v: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """y (B, H, T, D) and the new memory, both in the dtype of `memory`."""
        if not self.config.normalise:
            # TTT's first step size; the norm that follows makes it almost irrelevant
            return linear_attention(q, k / (2 * self.head_dim), v, memory, self.frame)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        y, memory = linear_attention(q, k, F.pad(v, (0, 1), value=1.0), memory, self.frame)
        return y[..., :-1] / (y[..., -1:] + EPS), memory


def flops(config: LinearAttentionConfig, width: int, heads: int, T: int) -> float:
    """Forward operations per token, by chunks."""
    D = width // heads
    columns = D + config.normalise  # of the memory, which has D rows
    chunk = min(CHUNK, T)
    # q k^T and its product with v in a chunk; writing to and reading from the memory
    per_head = 2 * chunk * (D + columns) + 4 * D * columns
    return 8 * width * width + heads * per_head
