"""The Triton kernels as one backend: results and gradients as library.py wants them, and States.

A call reads the rest of an open mini-batch as a piece of the dual form, everything after it, a
ragged end included, in one launch; packed sequences too.

B batch, T tokens, H heads, D head dim, M mini-batch size, S packed sequences.
"""

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from tttvideo.kernels import operator as library
from tttvideo.kernels.dual import piece as dual
from tttvideo.kernels.inner import Norm
from tttvideo.kernels.slots import Slots
from tttvideo.kernels.state import State

from . import decode as triton_decode
from . import linear as triton_linear
from . import mlp as triton_mlp


MODELS = {2: triton_linear, 4: triton_mlp}  # by the number of fast weights
ROWS = {2: 1, 4: 3}  # S of TTT-Linear; X2, S1, S2 of TTT-MLP


def run(
    q: Tensor, k: Tensor, v: Tensor, eta: Tensor, token_scale: Tensor, norm: Norm, state: State
) -> tuple[Tensor, State]:
    """As ops.ttt_linear and ops.ttt_mlp, checked; token_scale and norm are float32."""
    tokens, shared = (q, k, v, eta), (token_scale, norm)
    T, taken = q.shape[1], state.takes(q.shape[1], len(token_scale))
    ys = []
    if taken:
        y, state = piece([x[:, :taken] for x in tokens], *shared, state)
        ys.append(y)
    if taken < T:
        rest = [x[:, taken:] for x in tokens] if taken else tokens
        y, weights, rows = launch(rest, *shared, state.weights, None)
        state = closed(rest[1], weights, rows, (T - taken) % len(token_scale))
        ys.append(y)
    return torch.cat(ys, dim=1) if len(ys) > 1 else ys[0], state


def run_packed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm: Norm,
    states: Sequence[State],
    bounds: Sequence[tuple[int, int]],
) -> tuple[Tensor, list[State]]:
    """Sequence s is tokens bounds[s] of the one row (B = 1) and goes on from states[s]."""
    tokens, M = (q, k, v, eta), len(token_scale)
    states, spans, ys = list(states), [], []
    for s, (begin, end) in enumerate(bounds):
        middle = begin + states[s].takes(end - begin, M)
        if middle > begin:
            head = [x[:, begin:middle] for x in tokens]
            y, states[s] = piece(head, token_scale, norm, states[s])
            ys.append(y)
        ys.append((middle, end))  # to be cut out of what the launch gives
        spans.append((middle, end))
    weights = [torch.cat(ws) for ws in zip(*(state.weights for state in states), strict=True)]
    where = torch.tensor(spans, dtype=torch.int32).to(q.device, non_blocking=True)
    y, weights, rows = launch(tokens, token_scale, norm, weights, where)
    for s, (begin, end) in enumerate(spans):
        if begin < end:
            own = [[x[s : s + 1].clone() for x in xs] for xs in (weights, rows)]
            states[s] = closed(k[:, begin:end], *own, (end - begin) % M)
    if len(ys) > len(spans):
        y = torch.cat([y[:, slice(*x)] if isinstance(x, tuple) else x for x in ys], dim=1)
    return y, states


def piece(
    tokens: Sequence[Tensor], token_scale: Tensor, norm: Norm, state: State
) -> tuple[Tensor, State]:
    y, state = dual.piece(*(x.float() for x in tokens), token_scale, norm, state)
    return y.to(tokens[0].dtype), state


def launch(
    tokens: Sequence[Tensor],
    token_scale: Tensor,
    norm: Norm,
    weights: Sequence[Tensor],
    spans: Tensor | None,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """y, the weights at the start of what is open at the end, and rows of that."""
    operands = [*tokens, *(x.contiguous() for x in (token_scale, *norm))]
    weights, n = [w.contiguous() for w in weights], len(weights)
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in (*operands, *weights))
    y, *results = OPERATOR(operands, weights, spans, keep)
    return y, results[:n], results[n : n + ROWS[n]]


def closed(k: Tensor, weights: Sequence[Tensor], rows: Sequence[Tensor], filled: int) -> State:
    """The State of what a launch gave, k (B, T, H, D) having been its keys."""
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


def decode(tokens: list[Tensor], shared: list[Tensor], slots: Slots) -> Tensor:
    """As ops.ttt_decode_, checked."""
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
