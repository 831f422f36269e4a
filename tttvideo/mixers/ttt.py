"""The TTT layer: projections, rotary positions, step sizes and gate around the inner loop.

Details of the released code that a reader of the paper (arXiv 2407.04620) might not expect: the
inner target is v - k with k already rotated; positions restart at every mini-batch; the learned
factor `token_scale` belongs to the token that reads, `eta` to the token that writes.

Ours and not the paper's, each with a key of its own: a positive factor on the step that is carried
to the next mini-batch (carry), a forget gate, reads after the whole mini-batch, fast weights for
each block of a frame, and q and k of places.

B batch, T tokens, M mini-batch size, H heads, D head dim, E inner hidden, C width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from tttvideo.kernels import Packed, Slots, State, ttt_decode_, ttt_linear, ttt_mlp, ttt_norm_free
from tttvideo.layers import ShortConv, full, rotary_table, rotate
from tttvideo.states import run_packed, state_dataclass, tree_map

from .blocks import Blocks
from .forget_gate import ForgetGate
from .mixer import Address, Grid, Mixer
from .ttt_config import ResolvedTTT, TTTConfig


P = TypeVar("P", State, Packed[State])


@state_dataclass
class TTTState:
    """State of the inner loop, last inputs of the convolutions, place in the frame (0 for text).

    scores: the forget gate's sum over the open mini-batch (B, H); None without a gate.
    """

    inner: State
    tail: Tensor | None
    place: int
    scores: Tensor | None

    @property
    def filled(self) -> int:
        return self.inner.filled


@state_dataclass
class TTTDecoding:
    """A TTTState in buffers that `decode_` changes; each sequence has its own place.

    The fields are those of Slots without the start; operands is empty where they are the weights.
    """

    weights: tuple[Tensor, ...]
    operands: tuple[Tensor, ...]
    rows: tuple[Tensor, ...]
    places: Tensor
    tail: Tensor | None
    place: int
    scores: Tensor | None

    @property
    def filled(self) -> Tensor:
        """(B, 1), the place of each sequence in its mini-batch."""
        return self.places[:, :1]


class InnerCall(NamedTuple):
    """What one call of the inner loop read: k, v (B, T, H, D), log g, the states around it."""

    k: Tensor
    v: Tensor
    log_keep: Tensor | None
    before: State | Packed[State]
    after: State | Packed[State]


class TTTLayer(Mixer[TTTState]):
    """The mixer "ttt"."""

    watch: Callable[[InnerCall], None] | None = None
    """Called after each call of the inner loop, to measure it."""

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
        self.blocks = Blocks.of(grid, own.blocks) if grid and own.blocks > 1 else None
        self.pre_conv = own.conv_kernel if own.pre_conv else 0
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = None if own.share_qk else nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.gate_proj = nn.Linear(width, width, bias=False) if own.gate else None
        convolved = own.share_qk and own.address == "content"
        self.conv_q = ShortConv(width, own.conv_kernel) if convolved else None
        self.conv_k = ShortConv(width, own.conv_kernel) if convolved else None
        if own.learn_step:
            self.eta_weight = nn.Parameter(torch.empty(heads, width).normal_(std=0.02))
            self.eta_bias = nn.Parameter(torch.zeros(heads))
            if own.causal:
                self.token_shift = nn.Parameter(torch.zeros(own.mini_batch_size - 1))
            self.carry_shift = nn.Parameter(torch.zeros(1))
        if own.norm:
            self.norm_weight = nn.Parameter(torch.ones(heads, self.head_dim))
            self.norm_bias = nn.Parameter(torch.zeros(heads, self.head_dim))
        gate = width, heads, grid is not None, own.first_decay
        self.forget = ForgetGate(*gate) if own.forget else None
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
            return [self.by_block(full(weight)) for weight in self.inner_weights]
        shapes = self.inner_shapes()
        return [self.by_block(full(self.o_proj.weight).new_zeros(shape)) for shape in shapes]

    def by_block(self, x: Tensor) -> Tensor:
        """A tensor (H, ...) that all blocks share, once for each, (blocks H, ...)."""
        return torch.cat([x] * self.config.blocks) if self.blocks else x

    def init_state(self, batch: int) -> TTTState:
        """The state before the first token: the initial weights for B sequences."""
        weights = tuple(weight.expand(batch, -1, -1, -1) for weight in self.start())
        tail = self.conv_q.init_state(batch) if self.conv_q else None
        scores = weights[0].new_zeros(weights[0].shape[:2]) if self.forget else None
        return TTTState(State(weights), tail, 0, scores)

    def forward(
        self, x: Tensor, state: TTTState | None = None, address: Address | None = None
    ) -> tuple[Tensor, TTTState]:
        state = self.init_state(len(x)) if state is None else state
        one = Packed((state,), (x.shape[1],))
        q, k, v, tails = self.views(x, one, address)
        log_keep, scores = self.log_keep(x, one)
        y, inner = self.inner_loop(x, q, k, v, log_keep, state.inner)
        return self.output(x, y), self.after(one, (inner,), tails, scores).states[0]

    def forward_packed(
        self, x: Tensor, packed: Packed[TTTState]
    ) -> tuple[Tensor, Packed[TTTState]]:
        """All sequences of a row x (1, T, C) in one call of the inner loop."""
        q, k, v, tails = self.views(x, packed)
        log_keep, scores = self.log_keep(x, packed)
        start = Packed(tuple(state.inner for state in packed.states), self.inner_lengths(packed))
        y, inner = self.inner_loop(x, q, k, v, log_keep, start)
        return self.output(x, y), self.after(packed, inner.states, tails, scores)

    def start_decoding(self, state: TTTState) -> TTTState | TTTDecoding:
        """Slots, or the state itself for an inner model or a backend that has none.

        A GPU decodes in them without waiting for the host. On a CPU they are as fast as States for
        sequences at one place of their mini-batches, measured from 0.93 to 1.05 of the time, and
        two to six times as fast as packed States for 8 to 32 sequences at different places.
        """
        own = self.config
        if not (own.norm and own.causal) or own.backend == "reference":
            return state
        device, dtype = self.q_proj.weight.device.type, self.q_proj.weight.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        slots = Slots.of(state.inner, self.config.mini_batch_size, dtype)
        operands = () if dtype == slots.weights[0].dtype else slots.operands
        buffers = slots.weights, operands, slots.rows, slots.places
        return TTTDecoding(*buffers, state.tail, state.place, state.scores)

    def decode_(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        if isinstance(state, TTTState):
            return self(x, state)
        q, k, v, tails = self.views(x, Packed((state,), (1,)))
        norm, backend = (self.norm_weight, self.norm_bias), self.config.backend
        tokens, log_keep, scores = (q, k, v, self.eta(x)), None, None
        if self.forget:
            places, M = state.filled, self.config.mini_batch_size
            gate = self.forget.scores(x), state.scores, places, M
            log_keep, scores = self.forget.log_keep_one(*gate)
        shared = self.token_scale(), *norm, self.slots(state)
        y = ttt_decode_(*tokens, *shared, log_keep=log_keep, backend=backend)
        after = {"tail": tails.states[0], "place": self.place(state, 1), "scores": scores}
        return self.output(x, y), replace(state, **after)

    def finish_decoding(self, state: TTTState | TTTDecoding) -> TTTState:
        if isinstance(state, TTTState):
            return state
        return TTTState(self.slots(state).to_state(), state.tail, state.place, state.scores)

    def slots(self, state: TTTDecoding) -> Slots:
        """The buffers of a state, and W0 for the forget gate."""
        start = tuple(w.detach() for w in self.start()) if self.forget else ()
        operands = state.operands or state.weights[::2]
        return Slots(state.weights, operands, state.rows, state.places, start)

    def views(
        self,
        x: Tensor,
        packed: Packed[TTTState] | Packed[TTTDecoding],
        address: Address | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Packed[Tensor | None]]:
        """q, k, v as the inner loop reads them, and the new tails of the convolutions.

        (B, T, H, D), q and k of the content rotated; with blocks (B, T / blocks, blocks H, D).
        """
        states: tuple[TTTState | TTTDecoding, ...] = packed.states
        tails: Packed[Any] = Packed(tuple(state.tail for state in states), packed.lengths)
        place = self.config.address == "place"
        if place and address is None:
            raise ValueError("ttt.address is place, and there is none; only frame models have it")
        if place and address:
            q, k = self.q_proj(address.query), self.q_proj(address.key)
        elif self.k_proj:
            q, k = self.q_proj(x), self.k_proj(x)
        elif self.conv_q and self.conv_k:
            both = self.q_proj(x)
            k, _ = run_packed(self.conv_k, both, tails)
            q, tails = run_packed(self.conv_q, both, tails)
        q, k, v = (
            rearrange(y, "b t (h d) -> b t h d", h=self.heads) for y in (q, k, self.v_proj(x))
        )
        if not place:
            parts = list(zip(states, packed.lengths, strict=True))
            different = {(id(state), length): (state, length) for state, length in parts}
            found = {key: self.angles(*both, x.device) for key, both in different.items()}
            angles = torch.cat([found[id(state), length] for state, length in parts])
            q, k = rotate(q, angles), rotate(k, angles)
        return self.fold(q), self.fold(k), self.fold(v), tails

    def fold(self, x: Tensor) -> Tensor:
        """x (B, T, H, ...) with the blocks of a frame as heads."""
        return self.blocks.fold(x) if self.blocks else x

    def log_keep(
        self, x: Tensor, packed: Packed[TTTState]
    ) -> tuple[Tensor | None, tuple[Tensor | None, ...]]:
        """The forget gate as the inner loop reads it, and each sequence's sum of scores after."""
        if not self.forget:
            return None, (None,) * len(packed.states)
        scores = self.fold(self.forget.scores(x))
        M, gate = self.config.mini_batch_size, self.forget

        def log_keep(part: Tensor, opened: Any) -> tuple[Tensor, Any]:
            total, filled = opened
            log_keep, total = gate.log_keep(part, total, filled, M)
            return log_keep, (total,)

        opened: tuple[Any, ...] = tuple((state.scores, state.filled) for state in packed.states)
        found, after = run_packed(log_keep, scores, Packed(opened, self.inner_lengths(packed)))
        return found, tuple(total for (total,) in after.states)

    def inner_lengths(self, packed: Packed[TTTState]) -> tuple[int, ...]:
        """Tokens of each sequence, with blocks as heads."""
        return tuple(length // self.config.blocks for length in packed.lengths)

    def inner_loop(
        self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, log_keep: Tensor | None, state: P
    ) -> tuple[Tensor, P]:
        """The kernels' output (B, T, H, D) and the fast weights after it."""
        own = self.config
        tokens = q, k, v, self.fold(self.eta(x)), self.token_scale()
        if own.norm:
            op = {"linear": ttt_linear, "mlp": ttt_mlp}[own.inner]
            y, after = op(
                *tokens,
                self.by_block(self.norm_weight),
                self.by_block(self.norm_bias),
                state,
                mini_batch_size=own.mini_batch_size,
                log_keep=log_keep,
                start=self.start() if self.forget else None,
                causal=own.causal,
                backend=own.backend,
            )
        else:
            M, backend = own.mini_batch_size, own.backend
            y, after = ttt_norm_free(*tokens, state, mini_batch_size=M, backend=backend)
        if self.watch:
            self.watch(InnerCall(k, v, log_keep, state, after))
        return self.blocks.unfold(y) if self.blocks else y, after

    def output(self, x: Tensor, y: Tensor) -> Tensor:
        """Norm, gate and projection of the kernels' output y (B, T, H, D)."""
        y = self.post_norm(rearrange(y, "b t h d -> b t (h d)"))
        if self.gate_proj:
            y = F.gelu(self.gate_proj(x), approximate="tanh") * y
        return self.o_proj(y)

    def after(
        self,
        packed: Packed[TTTState],
        inner: tuple[State, ...],
        tails: Packed[Tensor | None],
        scores: tuple[Tensor | None, ...],
    ) -> Packed[TTTState]:
        """The states after the sequences that began with `packed`."""
        places = map(self.place, packed.states, packed.lengths)
        return Packed(tuple(map(TTTState, inner, tails.states, places, scores)), packed.lengths)

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
        """Factor (M,) of the token that reads: one over its place plus a learned shift, >= 0.

        The last is the carry, and the only one in use where tokens read after the mini-batch.
        """
        own, M = self.config, self.config.mini_batch_size
        if not own.learn_step:
            return full(self.o_proj.weight).new_ones(M)
        if not own.causal:
            return self.carry().expand(M)
        places = torch.arange(1, M, device=self.carry_shift.device)
        readers = (1 / full(places) + full(self.token_shift)).clamp_min(0)
        return torch.cat((readers, self.carry()))

    def carry(self) -> Tensor:
        """Factor (1,) of the step that is carried to the next mini-batch, above 0.

        At a clamp it would have no gradient. Weight decay pulls it to its first value.
        """
        first = self.config.carry or 1 / self.config.mini_batch_size
        return first * torch.exp(full(self.carry_shift))
