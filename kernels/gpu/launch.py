"""The Triton kernels as one backend: results and gradients as library.py wants them, and States.

A call reads the rest of an open mini-batch as a piece of the dual form, everything after it, a
ragged end included, in one launch; packed sequences too.

B batch, T tokens, H heads, D head dim, M mini-batch size, S packed sequences.
"""

import sys
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from tttvideo.kernels import operator as library
from tttvideo.kernels.dual import piece as dual
from tttvideo.kernels.slots import Slots
from tttvideo.kernels.state import Packed, State

from . import decode as triton_decode
from . import linear as triton_linear
from . import mlp as triton_mlp


P = TypeVar("P", State, Packed[State])
MODELS = {2: triton_linear, 4: triton_mlp}  # by the number of fast weights
ROWS = {2: 1, 4: 3}  # S of TTT-Linear; X2, S1, S2 of TTT-MLP


def read_tokens(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    state: P,
) -> tuple[Tensor, P]:
    """As ops.ttt_linear and ops.ttt_mlp, checked."""
    tokens, M = (q, k, v, eta.float()), len(token_scale)
    shared = [x.float().contiguous() for x in (token_scale, norm_weight, norm_bias)]
    if isinstance(state, Packed):
        return read_packed(tokens, shared, state)
    head, T, ys = state.missing(q.shape[1], M), q.shape[1], []
    if head:
        y, state = piece([x[:, :head] for x in tokens], shared, state)
        ys.append(y)
    if head < T:
        rest = [x[:, head:] for x in tokens] if head else tokens
        y, weights, rows = launch(rest, shared, state.weights, None)
        state = new_state(rest[1], weights, rows, (T - head) % M)
        ys.append(y)
    return torch.cat(ys, dim=1) if len(ys) > 1 else ys[0], state


def read_packed(
    tokens: Sequence[Tensor], shared: Sequence[Tensor], packed: Packed[State]
) -> tuple[Tensor, Packed[State]]:
    """Read the sequences of one row (B = 1): heads of open mini-batches first, then one launch."""
    M, k, states, begin, ys, ranges = len(shared[0]), tokens[1], list(packed.states), 0, [], []
    for s, length in enumerate(packed.lengths):
        middle = begin + states[s].missing(length, M)
        if middle > begin:
            y, states[s] = piece([x[:, begin:middle] for x in tokens], shared, states[s])
            ys.append(y)
        begin += length
        ys.append(slice(middle, begin))  # of the launch's y
        ranges.append((middle, begin))
    weights = [torch.cat(ws) for ws in zip(*(state.weights for state in states), strict=True)]
    token_ranges = torch.tensor(ranges, dtype=torch.int32).to(k.device, non_blocking=True)
    y, weights, rows = launch(tokens, shared, weights, token_ranges)
    for s, (begin, end) in enumerate(ranges):
        if begin < end:
            own = [[x[s : s + 1].clone() for x in xs] for xs in (weights, rows)]
            states[s] = new_state(k[:, begin:end], *own, (end - begin) % M)
    if len(ys) > len(ranges):
        y = torch.cat([y[:, part] if isinstance(part, slice) else part for part in ys], dim=1)
    return y, Packed(tuple(states), packed.lengths)


def piece(tokens: Sequence[Tensor], shared: Sequence[Tensor], state: State) -> tuple[Tensor, State]:
    y, state = dual.piece(*(x.float() for x in tokens), *shared, state)
    return y.to(tokens[0].dtype), state


def launch(
    tokens: Sequence[Tensor],
    shared: Sequence[Tensor],
    weights: Sequence[Tensor],
    spans: Tensor | None,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """y, the weights after the last whole mini-batch, and the rows of the open one."""
    operands = [*tokens, *shared]
    weights, n = [w.contiguous() for w in weights], len(weights)
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in (*operands, *weights))
    y, *results = OPERATOR(operands, weights, spans, keep)
    return y, results[:n], results[n : n + ROWS[n]]


def new_state(k: Tensor, weights: Sequence[Tensor], rows: Sequence[Tensor], filled: int) -> State:
    """The State after a launch that read the keys k (B, T, H, D)."""
    if not filled:
        return State(tuple(weights))
    K = k[:, -filled:].transpose(1, 2).to(torch.float32, copy=True)  # not a view that keeps k
    rows = [x[:, :, :filled] for x in rows]
    if len(rows) == 1:
        return State(tuple(weights), (K, *rows), filled)
    X2, S1, S2 = rows
    return State(tuple(weights), (K, S1, X2, S2), filled)


def forward(
    operands: list[Tensor], weights: list[Tensor], spans: Tensor | None, keep: bool
) -> list[Tensor]:
    with torch.cuda.device_of(operands[0]):  # Triton launches on the current device
        y, after, rows, saved = MODELS[len(weights)].forward(*operands, weights, spans, keep)
    return [y, *after, *rows, *saved]


def like(
    operands: list[Tensor], weights: list[Tensor], spans: Tensor | None, keep: bool
) -> list[Tensor]:
    q, M, model = operands[0], len(operands[4]), MODELS[len(weights)]
    S, H = weights[0].shape[:2]
    features = [W.shape[-1] for W in weights[::2]]
    features = [features[0], *features] if len(features) == 2 else features  # X2, S1, S2 or S
    rows = [weights[0].new_empty(S, H, M, n) for n in features]
    saved = model.saved_like(q, weights, M, spans is not None) if keep else ()
    return [*(x.new_empty(x.shape) for x in (q, *weights)), *rows, *saved]


def backward(
    grads: list[Tensor],
    operands: list[Tensor],
    weights: list[Tensor],
    results: list[Tensor],
    spans: Tensor | None,
) -> list[Tensor]:
    n = len(weights)
    dy, *rest = grads
    rest = [x.contiguous() for x in rest]  # a sum's gradient, for one, has strides of 0
    dweights, dopen = rest[:n], rest[n:]
    after, saved = results[:n], results[n + ROWS[n] :]
    with torch.cuda.device_of(dy):
        *gradients, dweights = MODELS[n].backward(
            dy, dweights, dopen, *operands, weights, after, saved, spans
        )
    return [*gradients, *dweights]


OPERATOR = library.operator("triton", sys.modules[__name__])


def decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    slots: Slots,
) -> Tensor:
    """As ops.ttt_decode_, checked."""
    tokens, shared = [q, k, v, eta], [token_scale, norm_weight, norm_bias]
    own = slots.operands[0] is not slots.weights[0]
    buffers = (slots.weights, slots.operands if own else (), slots.rows)
    return decode_(tokens, shared, *map(list, buffers), slots.places)


@torch.library.custom_op(
    "tttvideo::decode_", mutates_args=("weights", "operands", "rows", "places")
)
def decode_(
    tokens: list[Tensor],
    shared: list[Tensor],
    weights: list[Tensor],
    operands: list[Tensor],
    rows: list[Tensor],
    places: Tensor,
) -> Tensor:
    """One token per sequence; `operands` are empty where tokens are multiplied with the weights."""
    slots = Slots(tuple(weights), tuple(operands or weights[::2]), tuple(rows), places)
    with torch.cuda.device_of(places):
        return triton_decode.decode_(*tokens, *shared, slots)


@decode_.register_fake
def like_q(
    tokens: list[Tensor],
    shared: list[Tensor],
    weights: list[Tensor],
    operands: list[Tensor],
    rows: list[Tensor],
    places: Tensor,
) -> Tensor:
    return tokens[0].new_empty(tokens[0].shape)
