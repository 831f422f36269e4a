"""Mamba and Mamba-2: baselines with a gated memory that no gradient step changes.

Details of the released code that a reader of the papers (arXiv 2312.00752, 2405.21060) might not
expect: the step size passes a bottleneck of width / 16 in Mamba and comes straight from the input
in Mamba-2; the convolution reads x in Mamba, and x, B and C in Mamba-2; Mamba-2 multiplies with the
gate before its norm.

A, B, C, D are the papers' letters; batch b, T tokens, E inner features, N states of each feature,
H heads of P features, R step bottleneck.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tttvideo.kernels.backends import log_choice
from tttvideo.kernels.baselines.selective_scan import selective_scan
from tttvideo.kernels.baselines.ssd import CHUNK, ssd
from tttvideo.layers import ShortConv
from tttvideo.states import state_dataclass

from .mixer import Address, Grid, Mixer


FREE = "backend", "first_step", "first_decay"
"""Config fields that may change between runs with the same weights."""
INSTALLED = importlib.util.find_spec("mamba_ssm") is not None


@dataclass
class MambaConfig:
    d_state: int | None = None
    """States of each inner feature; null: 16 for mamba, 128 for mamba2."""
    expand: int = 2
    """Inner features as a multiple of the width."""
    conv_kernel: int = 4
    """Taps of the short convolution."""
    head_dim: int = 64
    """Inner features that share one decay; for mamba2 only."""
    first_step: float = 1.0
    """Factor on the step sizes of a new layer, with which tokens are written and decay."""
    first_decay: float = 1.0
    """Factor on the rates of decay of a new layer; below 1 it remembers longer than the paper's."""
    backend: Literal["auto", "torch", "mamba_ssm"] = "auto"
    """Implementation of the scan; auto: the package mamba_ssm on a GPU where it is installed."""

    def resolved(self, d_state: int) -> ResolvedMamba:
        """This config, with `d_state` as its default.

        Raises: ValueError for a size below 1 or an unknown backend.
        """
        values = vars(self) | {"d_state": d_state if self.d_state is None else self.d_state}
        for name in ("d_state", "expand", "conv_kernel", "head_dim"):
            if values[name] < 1:
                raise ValueError(f"mamba.{name} is {values[name]}; it must be 1 or more")
        for name in ("first_step", "first_decay"):
            if not values[name] > 0:
                raise ValueError(f"mamba.{name} is {values[name]}; it must be above 0")
        if self.backend not in ("auto", "torch", "mamba_ssm"):
            raise ValueError(f"mamba.backend {self.backend!r} is not one of auto, torch, mamba_ssm")
        return ResolvedMamba(**values)


@dataclass(kw_only=True)
class ResolvedMamba(MambaConfig):
    """MambaConfig without nulls."""

    d_state: int


@state_dataclass
class MambaState:
    """The state of either mixer.

    tail: (b, conv_kernel - 1, channels), the convolution's last inputs.
    ssm: float32, or float64 for a float64 model; (b, E, N) in Mamba, (b, N, H, P) in Mamba-2.
    """

    tail: Tensor
    ssm: Tensor


class MambaMixer(Mixer[MambaState]):
    """The parts that Mamba and Mamba-2 share: convolution, output projection and first state."""

    D_STATE: ClassVar[int]

    @classmethod
    def resolve(cls, config: MambaConfig, grid: Grid | None = None) -> ResolvedMamba:
        return config.resolved(cls.D_STATE)

    def __init__(self, width: int, config: ResolvedMamba, channels: int, ssm: tuple[int, ...]):
        super().__init__()
        self.config, self.ssm = config, ssm
        self.conv = ShortConv(channels, config.conv_kernel)
        for parameter in (self.conv.weight, self.conv.bias):  # initialised as in nn.Conv1d
            nn.init.uniform_(parameter, -(config.conv_kernel**-0.5), config.conv_kernel**-0.5)
        self.out_proj = nn.Linear(config.expand * width, width, bias=False)

    def init_state(self, batch: int) -> MambaState:
        tail = self.conv.init_state(batch)
        dtype = torch.float64 if tail.dtype == torch.float64 else torch.float32
        return MambaState(tail, tail.new_zeros(batch, *self.ssm, dtype=dtype))


class Mamba(MambaMixer):
    """The mixer "mamba"; it ignores `heads`, `grid` and addresses.

    Every inner feature decays on its own.
    The scan of the package mamba_ssm returns a state without a gradient.
    """

    D_STATE = 16

    @classmethod
    def resolve(cls, config: MambaConfig, grid: Grid | None = None) -> ResolvedMamba:
        return replace(super().resolve(config), head_dim=0)  # it has no heads

    def __init__(self, width: int, heads: int, config: MambaConfig, grid: Grid | None = None):
        own = self.resolve(config)
        inner, N, rank = own.expand * width, own.d_state, math.ceil(width / 16)
        super().__init__(width, own, inner, ssm=(inner, N))
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.x_proj = nn.Linear(inner, rank + 2 * N, bias=False)
        # not an nn.Linear, whose weight the backbone would initialise again
        self.dt_weight = nn.Parameter(torch.empty(inner, rank).uniform_(-(rank**-0.5), rank**-0.5))
        self.dt_bias = nn.Parameter(first_steps(inner, own.first_step))
        rates = own.first_decay * torch.arange(1.0, N + 1)
        self.A_log = nn.Parameter(rates.log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))

    def forward(
        self, x: Tensor, state: MambaState | None = None, address: Address | None = None
    ) -> tuple[Tensor, MambaState]:
        state = self.init_state(len(x)) if state is None else state
        x, z = self.in_proj(x).chunk(2, dim=-1)
        x, tail = self.conv(x, state.tail)
        x = F.silu(x)
        N, rank = self.config.d_state, self.dt_weight.shape[1]
        low, B, C = self.x_proj(x).split((rank, N, N), dim=-1)
        dt, A = self.steps(low, state.ssm.dtype)
        y, ssm = self.scan(x, dt, A, B, C, state)
        return self.out_proj(y * F.silu(z)), MambaState(tail, ssm)

    def steps(self, low: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Step sizes (b, T, E) and the rates A (E, N), in float32 or float64."""
        with torch.autocast(low.device.type, enabled=False):
            dt = F.linear(*(x.to(dtype) for x in (low, self.dt_weight, self.dt_bias)))
            return F.softplus(dt), -torch.exp(self.A_log.to(dtype))

    def scan(
        self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: MambaState
    ) -> tuple[Tensor, Tensor]:
        obstacle = None
        if INSTALLED and x.is_cuda and state.ssm.any():
            obstacle = "its Mamba kernel cannot start from a state"
        if choose_backend(self.config.backend, x, obstacle) == "torch":
            return selective_scan(x, dt, A, B, C, self.D, state.ssm)
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        x, dt, B, C = (tensor.mT.contiguous() for tensor in (x, dt.to(x.dtype), B, C))
        y, ssm = selective_scan_fn(x, dt, A, B, C, self.D.float(), return_last_state=True)
        return y.mT, ssm.detach()


class Mamba2(MambaMixer):
    """The mixer "mamba2"; it ignores `heads` and `grid`.

    It has inner features / head_dim heads. B and C, its k and q, are of the places of an Address;
    places are not convolved, nor is what is found there.
    """

    D_STATE = 128

    def __init__(self, width: int, heads: int, config: MambaConfig, grid: Grid | None = None):
        own = self.resolve(config)
        inner, N = own.expand * width, own.d_state
        if inner % own.head_dim:
            raise ValueError(
                f"mamba.head_dim {own.head_dim} does not divide the {inner} inner features "
                f"({own.expand} times width {width}); choose one that does"
            )
        own_heads = inner // own.head_dim
        super().__init__(width, own, inner + 2 * N, ssm=(N, own_heads, own.head_dim))
        self.in_proj = nn.Linear(width, 2 * inner + 2 * N + own_heads, bias=False)
        self.dt_bias = nn.Parameter(first_steps(own_heads, own.first_step))
        self.A_log = nn.Parameter(first_rates(own_heads, own.first_decay))
        self.D = nn.Parameter(torch.ones(own_heads))
        self.norm = nn.RMSNorm(inner, eps=1e-5)

    def forward(
        self, x: Tensor, state: MambaState | None = None, address: Address | None = None
    ) -> tuple[Tensor, MambaState]:
        state = self.init_state(len(x)) if state is None else state
        N, heads, P = self.ssm
        z, xBC, dt = self.in_proj(x).split((heads * P, heads * P + 2 * N, heads), dim=-1)
        x, B, C, tail = self.views(xBC, state.tail, address)
        dtype = state.ssm.dtype
        dt = F.softplus(dt.to(dtype) + self.dt_bias.to(dtype))
        A = -torch.exp(self.A_log.to(dtype))
        y, ssm = self.scan(x.unflatten(2, (heads, P)), dt, A, B, C, state.ssm)
        y = (y.flatten(2) * F.silu(z)).to(self.norm.weight.dtype)
        return self.out_proj(self.norm(y)), MambaState(tail, ssm)

    def views(
        self, xBC: Tensor, tail: Tensor, address: Address | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x (b, T, E), B and C (b, T, N), and the new tail of the convolution."""
        N, inner = self.ssm[0], self.norm.normalized_shape[0]
        if address is None:
            xBC, tail = self.conv(xBC, tail)
            x, B, C = F.silu(xBC).split((inner, N, N), dim=-1)
            return x, B, C, tail
        rows = self.in_proj.weight[2 * inner :][:N]  # those that make B of the content
        B, C = F.linear(address.key, rows), F.linear(address.query, rows)
        return F.silu(xBC[..., :inner]), B, C, tail

    def scan(
        self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        if choose_backend(self.config.backend, x) == "torch":
            return ssd(x, dt, A, B, C, self.D, state)
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

        B, C = B[:, :, None], C[:, :, None]  # one group
        state = state.permute(0, 2, 3, 1).contiguous()  # (b, H, P, N)
        options = {"D": self.D.float(), "initial_states": state, "return_final_states": True}
        y, state = mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size=256, **options)
        return y, state.float().permute(0, 3, 1, 2).contiguous()


def first_steps(count: int, scale: float = 1.0) -> Tensor:
    """Biases whose softplus is `scale` times a step drawn log-uniformly from [0.001, 0.1]."""
    steps = scale * torch.exp(torch.empty(count).uniform_(math.log(0.001), math.log(0.1)))
    return steps + torch.log(-torch.expm1(-steps))


def first_rates(heads: int, scale: float) -> Tensor:
    """Logarithms of `scale` times rates of decay drawn from [1, 16]."""
    return torch.empty(heads).uniform_(1, 16).mul(scale).log()


def choose_backend(backend: str, x: Tensor, obstacle: str | None = None) -> str:
    """torch or mamba_ssm, whichever serves x.

    obstacle: the mixer's own reason against mamba_ssm.
    Raises: ValueError with the reason when mamba_ssm is asked for and cannot serve.
    """
    if backend == "torch":
        return backend
    if not INSTALLED:
        obstacle = "the package mamba_ssm is not installed"
    elif not x.is_cuda:
        obstacle = f"the tokens are on {x.device.type}, and its kernels run on CUDA GPUs"
    elif x.dtype == torch.float64:
        obstacle = "its kernels have no float64"
    if backend == "mamba_ssm" and obstacle:
        raise ValueError(f"backend 'mamba_ssm' cannot serve: {obstacle}; use 'auto' or 'torch'")
    name = "torch" if obstacle else "mamba_ssm"
    if backend == "auto":
        log_choice(name, f"not mamba_ssm: {obstacle}" if obstacle else "the fastest here")
    return name


def mamba_flops(config: ResolvedMamba, width: int, heads: int, T: int) -> float:
    """Forward operations per token of Mamba, whose scan reads token by token."""
    E, N, rank = config.expand * width, config.d_state, math.ceil(width / 16)
    projections = 2 * width * 2 * E + 2 * E * (rank + 2 * N) + 2 * rank * E + 2 * E * width
    # per feature and state: 3 for a = exp(dt A) and (dt x) B, 2 for h <- a h + .., 2 for y += C h
    return projections + 2 * config.conv_kernel * E + 7 * E * N


def mamba2_flops(config: ResolvedMamba, width: int, heads: int, T: int) -> float:
    """Forward operations per token of Mamba-2, by chunks."""
    E, N = config.expand * width, config.d_state
    projections = 2 * width * (2 * E + 2 * N + E // config.head_dim) + 2 * E * width
    # C B^T and its product with x; writing to and reading from the states between chunks
    scan = 2 * min(CHUNK, T) * (N + E) + 4 * E * N
    return projections + 2 * config.conv_kernel * (E + 2 * N) + scan
