"""The TTT layer: projections, rotary positions, step sizes and gate around the inner loop.

What a reader of the paper might not expect, as in the released code (arXiv 2407.04620):
the inner target is v - k with k already rotated; positions restart at every mini-batch; a learned
factor `token_scale` belongs to the token that reads, `eta` to the token that writes.

B batch, T tokens, M mini-batch size, H heads, D head dim, E inner hidden, C width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from tttvideo.kernels import State, ttt_linear, ttt_mlp

from .layers import ShortConv, rotary_table, rotate


Grid = tuple[int, int]


@dataclass
class TTTConfig:
    inner: Literal["linear", "mlp"] = "linear"
    """Inner model: one matrix, or two with a GELU between and four times the hidden size."""
    mini_batch_size: int | None = None
    """Tokens that share one inner gradient step; null: one frame of a video, 16 tokens of text."""
    base_lr: float | None = None
    """Inner learning rate before the learned gate; null: 1.0 for linear, 0.1 for mlp."""
    backbone: Literal["mamba", "transformer"] = "mamba"
    """mamba: shared q/k with short convolutions, a gate, a convolution before; else none."""
    share_qk: bool | None = None
    """One projection for q and k, told apart by two short convolutions; null: as `backbone`."""
    gate: bool | None = None
    """Multiply the output by a GELU gate of the input; null: as `backbone`."""
    pre_conv: bool | None = None
    """A short convolution with its own residual before the layer; null: as `backbone`."""
    conv_kernel: int = 4
    """Taps of every short convolution."""
    rope_theta: float = 10000.0
    """Base of the rotary positions."""
    backend: Literal["auto", "triton", "dual", "reference"] = "auto"
    """Who computes the inner loop."""

    def resolved(self, grid: Grid | None) -> TTTConfig:
        """This config with every null replaced by what it stands for."""
        mamba = self.backbone == "mamba"
        frame = grid[0] * grid[1] if grid else 16
        values = dict(vars(self))
        defaults = {
            "mini_batch_size": frame,
            "base_lr": {"linear": 1.0, "mlp": 0.1}[self.inner],
            "share_qk": mamba,
            "gate": mamba,
            "pre_conv": mamba,
        }
        values.update({key: value for key, value in defaults.items() if values[key] is None})
        for name in ("mini_batch_size", "conv_kernel"):
            if values[name] < 1:
                raise ValueError(f"ttt.{name} is {values[name]}; it must be 1 or more")
        return TTTConfig(**values)


@dataclass(frozen=True)
class TTTState:
    """The inner loop's state, the convolutions' last inputs, and the number of tokens seen."""

    inner: State
    tail: Tensor | None
    seen: int


class TTTLayer(nn.Module):
    """A mixer: forward(x, state) -> (y, state), x and y (B, T, C), any T >= 1 at any place."""

    def __init__(self, width: int, heads: int, config: TTTConfig, grid: Grid | None = None):
        super().__init__()
        if width % heads or (width // heads) % (4 if grid else 2):
            raise ValueError(
                f"width {width} over {heads} heads must give a head dim that is a multiple of "
                f"{'4 (pairs by row and by column)' if grid else '2 (pairs of features)'}"
            )
        self.config = config = config.resolved(grid)
        self.heads, self.head_dim, self.grid = heads, width // heads, grid
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = None if config.share_qk else nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.gate_proj = nn.Linear(width, width, bias=False) if config.gate else None
        self.conv_q = ShortConv(width, config.conv_kernel) if config.share_qk else None
        self.conv_k = ShortConv(width, config.conv_kernel) if config.share_qk else None
        self.eta_weight = nn.Parameter(torch.empty(heads, width))
        self.eta_bias = nn.Parameter(torch.zeros(heads))
        self.token_shift = nn.Parameter(torch.zeros(config.mini_batch_size))
        self.norm_weight = nn.Parameter(torch.ones(heads, self.head_dim))
        self.norm_bias = nn.Parameter(torch.zeros(heads, self.head_dim))
        self.post_norm = nn.LayerNorm(width, eps=1e-6)
        sizes = [self.head_dim] + [4 * self.head_dim] * (config.inner == "mlp") + [self.head_dim]
        self.inner_weights = nn.ParameterList(
            nn.Parameter(torch.zeros(heads, rows, after))
            for before, after in zip(sizes[:-1], sizes[1:], strict=True)
            for rows in (before, 1)
        )
        for parameter in (self.eta_weight, *self.inner_weights[::2]):
            nn.init.normal_(parameter, std=0.02)
        self.lr_factor = 1.0  # the outer loop's warm-up of the inner learning rate

    def init_state(self, batch: int) -> TTTState:
        """The state before the first token: the learned initial weights for B sequences."""
        weights = tuple(full(w).expand(batch, -1, -1, -1) for w in self.inner_weights)
        tail = self.conv_q.init_state(batch) if self.conv_q else None
        return TTTState(State(weights), tail, 0)

    def forward(self, x: Tensor, state: TTTState | None = None) -> tuple[Tensor, TTTState]:
        state = self.init_state(len(x)) if state is None else state
        q, k, v, tail = self.views(x, state)
        op = ttt_linear if self.config.inner == "linear" else ttt_mlp
        y, inner = op(
            *(q, k, v, self.eta(x), self.token_scale(), self.norm_weight, self.norm_bias),
            state.inner,
            mini_batch_size=len(self.token_shift),
            backend=self.config.backend,
        )
        y = self.post_norm(rearrange(y, "b t h d -> b t (h d)"))
        if self.gate_proj:
            y = F.gelu(self.gate_proj(x), approximate="tanh") * y
        return self.o_proj(y), TTTState(inner, tail, state.seen + x.shape[1])

    def views(self, x: Tensor, state: TTTState) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """q, k, v (B, T, H, D), q and k rotated, and the convolutions' new tail."""
        q, v, tail = self.q_proj(x), self.v_proj(x), None
        if self.k_proj:
            k = self.k_proj(x)
        else:
            shared = q
            q, tail = self.conv_q(shared, state.tail)
            k, _ = self.conv_k(shared, state.tail)
        q, k, v = (rearrange(y, "b t (h d) -> b t h d", h=self.heads) for y in (q, k, v))
        angles = self.angles(state, x)
        return rotate(q, angles), rotate(k, angles), v, tail

    def angles(self, state: TTTState, x: Tensor) -> Tensor:
        """Rotary angles (T, D // 2): by place in the mini-batch, or by row and column."""
        steps = torch.arange(x.shape[1], device=x.device)
        theta = self.config.rope_theta
        if self.grid is None:
            places = (state.inner.filled + steps) % len(self.token_shift)
            return rotary_table(places, self.head_dim // 2, theta)
        places = (state.seen + steps) % (self.grid[0] * self.grid[1])
        axes = (places // self.grid[1], places % self.grid[1])
        return torch.cat([rotary_table(axis, self.head_dim // 4, theta) for axis in axes], dim=1)

    def eta(self, x: Tensor) -> Tensor:
        """Inner learning rate (B, T, H) of each token and head, never less exact than float32."""
        with torch.autocast(x.device.type, enabled=False):
            gate = torch.sigmoid(F.linear(full(x), full(self.eta_weight), full(self.eta_bias)))
        return self.lr_factor * self.config.base_lr / self.head_dim * gate

    def token_scale(self) -> Tensor:
        """Factor (M,) of the token that reads: one over its place, learned, never negative."""
        places = torch.arange(1, len(self.token_shift) + 1, device=self.token_shift.device)
        return (1 / full(places) + full(self.token_shift)).clamp_min(0)


def full(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it is that."""
    return x if x.dtype == torch.float64 else x.float()
