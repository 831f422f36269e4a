"""The Triton backend: reads tokens from a State, and decodes in Slots.

A call reads the rest of an open mini-batch as a piece of the dual form, and everything after it, a
short end included, in one launch; packed sequences too.

B batch, T tokens, H heads, D head dim, M mini-batch size, S packed sequences.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from tttvideo.kernels.dual.piece import piece
from tttvideo.kernels.operator import needs_backward
from tttvideo.kernels.slots import Slots
from tttvideo.kernels.state import Packed, State

from . import decode as triton_decode
from . import linear, mlp


P = TypeVar("P", State, Packed[State])
Tokens = tuple[Tensor, Tensor, Tensor, Tensor]  # q, k, v, eta
Shared = tuple[Tensor, Tensor, Tensor]  # token_scale, norm_weight, norm_bias
OPERATORS = {2: linear.OPERATOR, 4: mlp.OPERATOR}
"""By the number of fast weights."""


def read_tokens(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    state: P,
    log_keep: Tensor | None = None,
    start: Sequence[Tensor] = (),
    causal: bool = True,
) -> tuple[Tensor, P]:
    """Like ops.ttt_linear and ops.ttt_mlp; the arguments are already checked."""
    assert log_keep is None and causal, "refused in backends.py"
    shared = contiguous(token_scale), contiguous(norm_weight), contiguous(norm_bias)
    eta = eta.float()
    if isinstance(state, Packed):
        return read_packed((q, k, v, eta), shared, state)
    if state.filled:
        return read_from_open((q, k, v, eta), shared, state)
    weights = [w.contiguous() for w in state.weights]
    save = needs_backward(q, k, v, eta, *shared, *weights)
    operands = q, k, v, eta, *shared, None, weights, []
    y, *results = OPERATORS[len(weights)](*operands, None, True, save)
    return y, new_state(k, results, len(weights), q.shape[1] % len(token_scale))


def read_from_open(tokens: Tokens, shared: Shared, state: State) -> tuple[Tensor, State]:
    """Read q, k, v and eta from a state with an open mini-batch."""
    T = tokens[0].shape[1]
    head = state.missing(T, len(shared[0]))
    y, state = read_piece(between(tokens, 0, head), shared, state)
    if head == T:
        return y, state
    y_rest, state = read_tokens(*between(tokens, head, T), *shared, state)
    return torch.cat((y, y_rest), dim=1), state


def read_piece(tokens: Tokens, shared: Shared, state: State) -> tuple[Tensor, State]:
    q, k, v, eta = tokens
    y, state = piece(q.float(), k.float(), v.float(), eta, *shared, state)
    return y.to(q.dtype), state


def between(tokens: Tokens, begin: int, end: int) -> Tokens:
    q, k, v, eta = tokens
    return q[:, begin:end], k[:, begin:end], v[:, begin:end], eta[:, begin:end]


def contiguous(x: Tensor) -> Tensor:
    return x.float().contiguous()


def read_packed(
    tokens: Tokens, shared: Shared, packed: Packed[State]
) -> tuple[Tensor, Packed[State]]:
    """Read the sequences of one row (B = 1): the rest of open mini-batches, then one launch."""
    q, k, v, eta = tokens
    M, states, begin, ranges = len(shared[0]), list(packed.states), 0, []
    ys: list[Tensor | slice] = []
    for s, length in enumerate(packed.lengths):
        middle = begin + states[s].missing(length, M)
        if middle > begin:
            y, states[s] = read_piece(between(tokens, begin, middle), shared, states[s])
            ys.append(y)
        begin += length
        ys.append(slice(middle, begin))  # of the launch's y
        ranges.append((middle, begin))
    weights = [torch.cat(ws) for ws in zip(*(state.weights for state in states), strict=True)]
    token_ranges = torch.tensor(ranges, dtype=torch.int32).to(q.device, non_blocking=True)
    save = needs_backward(*tokens, *shared, *weights)
    operator = OPERATORS[len(weights)]
    y, *results = operator(q, k, v, eta, *shared, None, weights, [], token_ranges, True, save)
    for s, (first, end) in enumerate(ranges):
        if first < end:
            own = [x[s : s + 1].clone() for x in results[: 2 * len(weights) - 1]]
            states[s] = new_state(k[:, first:end], own, len(weights), (end - first) % M)
    if len(ys) > len(ranges):
        y = torch.cat([y[:, part] if isinstance(part, slice) else part for part in ys], dim=1)
    return y, Packed(tuple(states), packed.lengths)


def new_state(k: Tensor, results: Sequence[Tensor], n: int, filled: int) -> State:
    """The State after a launch that read the keys k (B, T, H, D); results without y.

    The n fast weights come first, then n - 1 tensors of open rows: S of TTT-Linear, or X2, S1, S2
    of TTT-MLP.
    """
    weights = tuple(results[:n])
    if not filled:
        return State(weights)
    K = k[:, -filled:].transpose(1, 2).to(torch.float32, copy=True)  # not a view that keeps k
    rows = [x[:, :, :filled] for x in results[n : 2 * n - 1]]
    if n == 2:
        return State(weights, (K, *rows), filled)
    X2, S1, S2 = rows
    return State(weights, (K, S1, X2, S2), filled)


def decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    slots: Slots,
    log_keep: Tensor | None = None,
) -> Tensor:
    """As ops.ttt_decode_, checked."""
    assert log_keep is None, "refused in backends.py"
    own = slots.operands[0] is not slots.weights[0]
    buffers = (slots.weights, slots.operands if own else (), slots.rows)
    shared = token_scale, norm_weight, norm_bias
    return decode_(q, k, v, eta, *shared, *map(list, buffers), slots.places)


@torch.library.custom_op(
    "tttvideo::decode_", mutates_args=("weights", "operands", "rows", "places")
)
def decode_(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weights: list[Tensor],
    operands: list[Tensor],
    rows: list[Tensor],
    places: Tensor,
) -> Tensor:
    """One token per sequence; `operands` are empty where tokens are multiplied with the weights."""
    slots = Slots(tuple(weights), tuple(operands or weights[::2]), tuple(rows), places)
    with torch.cuda.device_of(places):
        return triton_decode.decode_(q, k, v, eta, token_scale, norm_weight, norm_bias, slots)


@decode_.register_fake
def like_q(q: Tensor, *others: object) -> Tensor:
    return q.new_empty(q.shape)
