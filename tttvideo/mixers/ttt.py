"""The TTT layer: projections, rotary positions, step sizes and gate around the inner loop.

Details of the released code that a reader of the paper (arXiv 2407.04620) might not expect: the
inner target is v - k with k already rotated; positions restart at every mini-batch; the learned
factor `token_scale` belongs to the token that reads, `eta` to the token that writes.

B batch, T tokens, M mini-batch size, H heads, D head dim, E inner hidden, C width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from tttvideo.kernels import Packed, Slots, State, ttt_decode_, ttt_linear, ttt_mlp, ttt_norm_free
from tttvideo.kernels.baselines.linear_attention import CHUNK
from tttvideo.layers import ShortConv, full, rotary_table, rotate
from tttvideo.states import run_packed, state_dataclass, tree_map

from .mixer import Grid, Mixer


P = TypeVar("P", State, Packed[State])


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
    """One projection for q and k, with a short convolution for each; null: as `backbone`."""
    gate: bool | None = None
    """Multiply the output with a GELU gate of the input; null: as `backbone`."""
    pre_conv: bool | None = None
    """A short convolution with its own residual before the layer; null: as `backbone`."""
    conv_kernel: int = 4
    """Taps of every short convolution."""
    rope_theta: float = 10000.0
    """Base of the rotary positions."""
    learn_start: bool = True
    """Learn W0, the fast weights before the first token, in the outer loop; else they are zero."""
    norm: bool = True
    """A LayerNorm and a residual in the inner model; without, f(x) = x W and the target is v."""
    learn_step: bool = True
    """Learn each token's step size: a gate times base_lr / head_dim where it writes, one over its
    place plus a shift where it reads. Else base_lr / (2 head_dim), the start of the gate, and 1:
    the paper's plain gradient descent."""
    backend: Literal["auto", "triton", "dual", "reference"] = "auto"
    """Implementation of the inner loop."""

    def resolved(self, grid: Grid | None) -> ResolvedTTT:
        """Put a default in place of every null; ValueError for values that no layer can have."""
        values: dict[str, Any] = {
            "mini_batch_size": grid[0] * grid[1] if grid else 16,
            "base_lr": {"linear": 1.0, "mlp": 0.1}[self.inner],
            **dict.fromkeys(("share_qk", "gate", "pre_conv"), self.backbone == "mamba"),
        }
        values |= {name: value for name, value in vars(self).items() if value is not None}
        for name in ("mini_batch_size", "conv_kernel"):
            if values[name] < 1:
                raise ValueError(f"ttt.{name} is {values[name]}; it must be 1 or more")
        for name in ("norm", "learn_start"):
            if self.inner == "mlp" and not values[name]:
                raise ValueError(
                    f"ttt.{name} is false, which is for ttt.inner linear; an mlp "
                    + ("needs its norm" if name == "norm" else "that starts at zero stays there")
                )
        return ResolvedTTT(**values)


@dataclass(kw_only=True)
class ResolvedTTT(TTTConfig):
    """TTTConfig without nulls."""

    mini_batch_size: int
    base_lr: float
    share_qk: bool
    gate: bool
    pre_conv: bool


@state_dataclass
class TTTState:
    """State of the inner loop, last inputs of the convolutions, place in the frame (0 for text)."""

    inner: State
    tail: Tensor | None
    place: int

    @property
    def filled(self) -> int:
        return self.inner.filled


@state_dataclass
class TTTDecoding:
    """A TTTState in buffers that `decode_` changes; each sequence has its own place.

    The fields are those of Slots; operands is empty where they are the weights.
    """

    weights: tuple[Tensor, ...]
    operands: tuple[Tensor, ...]
    rows: tuple[Tensor, ...]
    places: Tensor
    tail: Tensor | None
    place: int

    @property
    def slots(self) -> Slots:
        return Slots(self.weights, self.operands or self.weights[::2], self.rows, self.places)

    @property
    def filled(self) -> Tensor:
        """(B, 1), the place of each sequence in its mini-batch."""
        return self.places[:, :1]


class TTTLayer(Mixer[TTTState]):
    """The mixer "ttt"."""

    @classmethod
    def resolve(cls, config: TTTConfig, grid: Grid | None = None) -> ResolvedTTT:
        return config.resolved(grid)

    def __init__(self, width: int, heads: int, config: TTTConfig, grid: Grid | None = None):
        super().__init__()
        if width % heads or (width // heads) % (4 if grid else 2):
            raise ValueError(
                f"width {width} over {heads} heads must give a head dim that is a multiple of "
                f"{'4 (pairs by row and by column)' if grid else '2 (pairs of features)'}"
            )
        self.config = own = config.resolved(grid)
        self.heads, self.head_dim, self.grid = heads, width // heads, grid
        self.pre_conv = own.conv_kernel if own.pre_conv else 0
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = None if own.share_qk else nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.gate_proj = nn.Linear(width, width, bias=False) if own.gate else None
        self.conv_q = ShortConv(width, own.conv_kernel) if own.share_qk else None
        self.conv_k = ShortConv(width, own.conv_kernel) if own.share_qk else None
        if own.learn_step:
            self.eta_weight = nn.Parameter(torch.empty(heads, width).normal_(std=0.02))
            self.eta_bias = nn.Parameter(torch.zeros(heads))
            self.token_shift = nn.Parameter(torch.zeros(own.mini_batch_size))
        if own.norm:
            self.norm_weight = nn.Parameter(torch.ones(heads, self.head_dim))
            self.norm_bias = nn.Parameter(torch.zeros(heads, self.head_dim))
        self.post_norm = nn.LayerNorm(width, eps=1e-6)
        if own.learn_start:
            self.inner_weights = nn.ParameterList(map(torch.zeros, self.inner_shapes()))
            for weight in self.inner_weights[::2]:
                nn.init.normal_(weight, std=0.02)
        self.lr_factor = 1.0  # the outer loop's warm-up of the inner learning rate

    def inner_shapes(self) -> list[tuple[int, int, int]]:
        """Shapes of W and b of each inner layer; without a norm there is no b."""
        D = self.head_dim
        sizes = (D, 4 * D, D) if self.config.inner == "mlp" else (D, D)
        ends = [(n, 1) if self.config.norm else (n,) for n in sizes[:-1]]
        layers = zip(ends, sizes[1:], strict=True)
        return [(self.heads, rows, after) for both, after in layers for rows in both]

    def start(self) -> list[Tensor]:
        """W0: the fast weights before the first token, for one sequence, float32 or float64."""
        if self.config.learn_start:
            return [full(weight) for weight in self.inner_weights]
        return [full(self.o_proj.weight).new_zeros(shape) for shape in self.inner_shapes()]

    def init_state(self, batch: int) -> TTTState:
        """The state before the first token: the initial weights for B sequences."""
        weights = tuple(weight.expand(batch, -1, -1, -1) for weight in self.start())
        tail = self.conv_q.init_state(batch) if self.conv_q else None
        return TTTState(State(weights), tail, 0)

    def forward(self, x: Tensor, state: TTTState | None = None) -> tuple[Tensor, TTTState]:
        state = self.init_state(len(x)) if state is None else state
        one = Packed((state,), (x.shape[1],))
        q, k, v, tails = self.views(x, one)
        y, inner = self.inner_loop(x, q, k, v, state.inner)
        return self.output(x, y), self.after(one, (inner,), tails).states[0]

    def forward_packed(
        self, x: Tensor, packed: Packed[TTTState]
    ) -> tuple[Tensor, Packed[TTTState]]:
        """All sequences of a row x (1, T, C) in one call of the inner loop."""
        q, k, v, tails = self.views(x, packed)
        start = Packed(tuple(state.inner for state in packed.states), packed.lengths)
        y, inner = self.inner_loop(x, q, k, v, start)
        return self.output(x, y), self.after(packed, inner.states, tails)

    def start_decoding(self, state: TTTState) -> TTTState | TTTDecoding:
        """Slots, or the state itself for an inner model or a backend that has none.

        A GPU decodes in them without waiting for the host. On a CPU they are as fast as States for
        sequences at one place of their mini-batches, measured from 0.93 to 1.05 of the time, and
        two to six times as fast as packed States for 8 to 32 sequences at different places.
        """
        if not self.config.norm or self.config.backend == "reference":
            return state
        device, dtype = self.q_proj.weight.device.type, self.q_proj.weight.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        slots = Slots.of(state.inner, self.config.mini_batch_size, dtype)
        operands = () if dtype == slots.weights[0].dtype else slots.operands
        buffers = slots.weights, operands, slots.rows, slots.places
        return TTTDecoding(*buffers, state.tail, state.place)

    def decode_(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        if isinstance(state, TTTState):
            return self(x, state)
        q, k, v, tails = self.views(x, Packed((state,), (1,)))
        norm, backend = (self.norm_weight, self.norm_bias), self.config.backend
        tokens = q, k, v, self.eta(x)
        y = ttt_decode_(*tokens, self.token_scale(), *norm, state.slots, backend=backend)
        return self.output(x, y), replace(state, tail=tails.states[0], place=self.place(state, 1))

    def finish_decoding(self, state: TTTState | TTTDecoding) -> TTTState:
        if isinstance(state, TTTState):
            return state
        return TTTState(state.slots.to_state(), state.tail, state.place)

    def views(
        self, x: Tensor, packed: Packed[TTTState] | Packed[TTTDecoding]
    ) -> tuple[Tensor, Tensor, Tensor, Packed[Tensor | None]]:
        """q, k, v (B, T, H, D), q and k rotated, and the new tails of the convolutions."""
        q, v = self.q_proj(x), self.v_proj(x)
        states: tuple[TTTState | TTTDecoding, ...] = packed.states
        tails: Packed[Any] = Packed(tuple(state.tail for state in states), packed.lengths)
        if self.k_proj:
            k = self.k_proj(x)
        elif self.conv_q and self.conv_k:
            k, _ = run_packed(self.conv_k, q, tails)
            q, tails = run_packed(self.conv_q, q, tails)
        q, k, v = (rearrange(y, "b t (h d) -> b t h d", h=self.heads) for y in (q, k, v))
        both = zip(states, packed.lengths, strict=True)
        angles = torch.cat([self.angles(state, length, x.device) for state, length in both])
        return rotate(q, angles), rotate(k, angles), v, tails

    def inner_loop(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, state: P) -> tuple[Tensor, P]:
        """The kernels' output (B, T, H, D) and the fast weights after it."""
        size, backend = self.config.mini_batch_size, self.config.backend
        tokens = q, k, v, self.eta(x), self.token_scale()
        if not self.config.norm:
            return ttt_norm_free(*tokens, state, mini_batch_size=size, backend=backend)
        op = {"linear": ttt_linear, "mlp": ttt_mlp}[self.config.inner]
        norm = self.norm_weight, self.norm_bias
        return op(*tokens, *norm, state, mini_batch_size=size, backend=backend)

    def output(self, x: Tensor, y: Tensor) -> Tensor:
        """Norm, gate and projection of the kernels' output y (B, T, H, D)."""
        y = self.post_norm(rearrange(y, "b t h d -> b t (h d)"))
        if self.gate_proj:
            y = F.gelu(self.gate_proj(x), approximate="tanh") * y
        return self.o_proj(y)

    def after(
        self, packed: Packed[TTTState], inner: tuple[State, ...], tails: Packed[Tensor | None]
    ) -> Packed[TTTState]:
        """The states after the sequences that began with `packed`."""
        places = map(self.place, packed.states, packed.lengths)
        return Packed(tuple(map(TTTState, inner, tails.states, places)), packed.lengths)

    def angles(self, state: TTTState | TTTDecoding, length: int, device: torch.device) -> Tensor:
        """Rotary angles (..., T, D // 2): by place in the mini-batch, or by row and column."""
        steps = torch.arange(length, device=device)
        theta = self.config.rope_theta
        if self.grid is None:
            places = (state.filled + steps) % self.config.mini_batch_size
            return rotary_table(places, self.head_dim // 2, theta)
        places = (state.place + steps) % (self.grid[0] * self.grid[1])
        axes = (places // self.grid[1], places % self.grid[1])
        return torch.cat([rotary_table(axis, self.head_dim // 4, theta) for axis in axes], dim=1)

    def place(self, state: TTTState | TTTDecoding, length: int) -> int:
        """Place in the frame of the token after `length` more; 0 for text."""
        return (state.place + length) % (self.grid[0] * self.grid[1]) if self.grid else 0

    def detach_carry(self, state: TTTState) -> TTTState:
        """Carry the learned change W - W0, so that training still reaches the start W0."""
        return tree_map(Tensor.detach, self.add_start(state, -1))

    def attach_carry(self, carry: TTTState) -> TTTState:
        return self.add_start(carry, 1)

    def add_start(self, state: TTTState, sign: int) -> TTTState:
        """The state with weights W + sign W0."""
        both = zip(state.inner.weights, self.start(), strict=True)
        weights = tuple(torch.add(w, w0, alpha=sign) for w, w0 in both)
        return replace(state, inner=replace(state.inner, weights=weights))

    def eta(self, x: Tensor) -> Tensor:
        """Inner learning rate (B, T, H) of each token and head, in float32 or float64."""
        lr = self.lr_factor * self.config.base_lr / self.head_dim
        if not self.config.learn_step:  # the value of a new gate
            return full(x).new_full((*x.shape[:2], self.heads), lr / 2)
        with torch.autocast(x.device.type, enabled=False):
            gate = torch.sigmoid(F.linear(full(x), full(self.eta_weight), full(self.eta_bias)))
        return lr * gate

    def token_scale(self) -> Tensor:
        """Factor (M,) of the token that reads: one over its place plus a learned shift, >= 0."""
        M = self.config.mini_batch_size
        if not self.config.learn_step:
            return full(self.o_proj.weight).new_ones(M)
        places = torch.arange(1, M + 1, device=self.token_shift.device)
        return (1 / full(places) + full(self.token_shift)).clamp_min(0)


def label(config: TTTConfig) -> str:
    """The paper's name; (T) stands for the Transformer backbone."""
    name = {"linear": "TTT-Linear", "mlp": "TTT-MLP"}[config.inner]
    return name if config.backbone == "mamba" else f"{name} (T)"


def flops(config: ResolvedTTT, width: int, heads: int, T: int) -> float:
    """Forward operations per token, in the dual form; D head dim, M mini-batch size."""
    C, D, M = width, width // heads, config.mini_batch_size
    projections = 3 + (not config.share_qk) + config.gate  # q, v, out; k; gate
    convolutions = 2 * config.share_qk + config.pre_conv
    steps = 2 * C * heads * config.learn_step
    outside = 2 * C * C * projections + 2 * config.conv_kernel * C * convolutions + steps
    # per head and mini-batch: 2 M D^2 for every product with a weight or a step of one, 2 M^2 D for
    # every product of tokens with tokens; the hidden size of the MLP is 4 D
    squares, mixes = {"linear": (6, 4), "mlp": (56, 20)}[config.inner]
    if not config.norm:  # a mini-batch is linear attention, by chunks
        squares, M = 8, min(CHUNK, M)
    return outside + heads * (squares * D * D + mixes * M * D)
