"""Gated DeltaNet (arXiv 2412.06464): a memory that forgets by a gate and writes by the delta rule.

A write replaces what the memory returns for its key, in place of adding to it. The rest is as in
the paper: short convolutions and SiLU on q, k and v; q and k of length one; a norm of each head's
output and a gate. Keys and values have the head dim, so that a head's memory is as large as the
matrix of TTT-Linear.

B batch, T tokens, H heads, D head dim, C width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from tttvideo.kernels.baselines.gated_delta import gated_delta
from tttvideo.kernels.baselines.linear_attention import CHUNK
from tttvideo.layers import ShortConv, full
from tttvideo.states import state_dataclass

from .mamba import first_rates, first_steps
from .mixer import Address, Grid, Mixer, check_whole, frame_size


@dataclass
class GatedDeltaConfig:
    conv_kernel: int = 4
    """Taps of the short convolutions."""
    first_decay: float = 1.0
    """Factor on the rates of decay of a new layer; below 1 it remembers longer than the paper's."""
    causal: bool | None = None
    """A token reads what tokens up to it wrote; false: what its whole frame wrote; null:
    true in the backbone of tokens, false in the frame model."""


@state_dataclass
class GatedDeltaState:
    """The memory (B, H, D, D), float32 or float64, and the convolutions' last inputs."""

    memory: Tensor
    tail: Tensor


class GatedDelta(Mixer[GatedDeltaState]):
    """The mixer "gated_delta"."""

    def __init__(self, width: int, heads: int, config: GatedDeltaConfig, grid: Grid | None = None):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is no multiple of {heads} heads")
        if config.conv_kernel < 1:
            raise ValueError(
                f"gated_delta.conv_kernel is {config.conv_kernel}; it must be 1 or more"
            )
        if not config.first_decay > 0:
            raise ValueError(f"gated_delta.first_decay is {config.first_decay}; it must be above 0")
        self.frame = frame_size("gated_delta", config.causal, grid)
        self.config, self.heads, self.head_dim = config, heads, width // heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.conv = ShortConv(3 * width, config.conv_kernel)
        # not nn.Linears: both gates are computed in float32
        self.keep_weight = nn.Parameter(torch.empty(heads, width).normal_(std=0.02))
        self.keep_bias = nn.Parameter(first_steps(heads))
        self.A_log = nn.Parameter(first_rates(heads, config.first_decay))
        self.rate_weight = nn.Parameter(torch.empty(heads, width).normal_(std=0.02))
        self.norm = nn.RMSNorm(self.head_dim, eps=1e-5)
        self.gate_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def init_state(self, batch: int) -> GatedDeltaState:
        tail, D = self.conv.init_state(batch), self.head_dim
        memory = full(tail).new_zeros(batch, self.heads, D, D)
        return GatedDeltaState(memory, tail)

    def forward(
        self, x: Tensor, state: GatedDeltaState | None = None, address: Address | None = None
    ) -> tuple[Tensor, GatedDeltaState]:
        check_whole(x.shape[1], self.frame)
        state = self.init_state(len(x)) if state is None else state
        q, k, v, tail = self.views(x, state.tail, address)
        with torch.autocast(x.device.type, enabled=False):
            log_keep, rate = (rearrange(gate, "b t h -> b h t") for gate in self.gates(full(x)))
            y, memory = gated_delta(q, k, v, log_keep, rate, state.memory, self.frame)
        return self.output(x, y.to(x.dtype)), GatedDeltaState(memory, tail)

    def views(
        self, x: Tensor, tail: Tensor, address: Address | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, v (B, H, T, D) in float32 or float64, and the new tail of the convolutions.

        Places are not convolved, nor is what is found there.
        """
        if address:
            projected = self.k_proj(address.query), self.k_proj(address.key), self.v_proj(x)
            qkv = full(torch.cat(projected, dim=-1))
        else:
            projections = self.q_proj, self.k_proj, self.v_proj
            qkv = full(torch.cat([proj(x) for proj in projections], dim=-1))
            qkv, tail = self.conv(qkv, tail)
            qkv = F.silu(qkv)
        q, k, v = rearrange(qkv, "b t (n h d) -> n b h t d", n=3, h=self.heads)
        return F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, tail

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithm of what is kept, and the step, (B, T, H), in float32 or float64."""
        step = F.softplus(F.linear(x, full(self.keep_weight), full(self.keep_bias)))
        return -full(self.A_log).exp() * step, torch.sigmoid(F.linear(x, full(self.rate_weight)))

    def output(self, x: Tensor, y: Tensor) -> Tensor:
        """Norm, gate and projection of the rule's output y (B, H, T, D)."""
        y = rearrange(self.norm(y), "b h t d -> b t (h d)")
        return self.o_proj(y * F.silu(self.gate_proj(x)))


def flops(config: GatedDeltaConfig, width: int, heads: int, T: int) -> float:
    """Forward operations per token, by chunks."""
    C, D, L = width, width // heads, min(CHUNK, T)
    outside = 10 * C * C + 4 * C * heads + 2 * config.conv_kernel * 3 * C
    # products of keys, of queries with keys, and with what is written; the triangular system for
    # 2 D columns; reading from the memory twice and writing to it
    return outside + heads * (6 * L * D + 2 * L * D + 6 * D * D)
