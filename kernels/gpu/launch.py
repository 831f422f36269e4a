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
Tokens = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]  # q, k, v, eta, log_keep
Shared = tuple[Tensor, Tensor, Tensor]  # token_scale, norm_weight, norm_bias
Memory = tuple[list[Tensor], bool]  # start and causal
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
    shared = contiguous(token_scale), contiguous(norm_weight), contiguous(norm_bias)
    tokens, memory = (q, k, v, eta.float(), log_keep), (list(start), causal)
    if isinstance(state, Packed):
        return read_packed(tokens, shared, memory, state)
    if state.filled:
        return read_from_open(tokens, shared, memory, state)
    y, *results = operate(tokens, shared, memory, state.weights, None)
    return y, new_state(k, results, len(state.weights), q.shape[1] % len(token_scale))


def operate(
    tokens: Tokens,
    shared: Shared,
    memory: Memory,
    weights: Sequence[Tensor],
    token_ranges: Tensor | None,
) -> list[Tensor]:
    """Launch the operator that reads the tokens, from weights with nothing open."""
    (*qkv_eta, log_keep), (start, causal) = tokens, memory
    weights, gate = [w.contiguous() for w in weights], [] if log_keep is None else [log_keep]
    save = needs_backward(*qkv_eta, *shared, *gate, *weights, *start)
    return OPERATORS[len(weights)](
        *qkv_eta, *shared, log_keep, weights, start, token_ranges, causal, save
    )


def read_from_open(
    tokens: Tokens, shared: Shared, memory: Memory, state: State
) -> tuple[Tensor, State]:
    """Read tokens from a state with an open mini-batch."""
    T = tokens[0].shape[1]
    head = state.missing(T, len(shared[0]))
    y, state = read_piece(between(tokens, 0, head), shared, memory, state)
    if head == T:
        return y, state
    q, k, v, eta, log_keep = between(tokens, head, T)
    y_rest, state = read_tokens(q, k, v, eta, *shared, state, log_keep, *memory)
    return torch.cat((y, y_rest), dim=1), state


def read_piece(
    tokens: Tokens, shared: Shared, memory: Memory, state: State
) -> tuple[Tensor, State]:
    q, k, v, eta, log_keep = tokens
    y, state = piece(q.float(), k.float(), v.float(), eta, *shared, state, log_keep, *memory)
    return y.to(q.dtype), state


def between(tokens: Tokens, begin: int, end: int) -> Tokens:
    q, k, v, eta, log_keep = tokens
    own = slice(begin, end)
    return (
        q[:, own],
        k[:, own],
        v[:, own],
        eta[:, own],
        None if log_keep is None else log_keep[:, own],
    )


def contiguous(x: Tensor) -> Tensor:
    return x.float().contiguous()


def read_packed(
    tokens: Tokens, shared: Shared, memory: Memory, packed: Packed[State]
) -> tuple[Tensor, Packed[State]]:
    """Read the sequences of one row (B = 1): the rest of open mini-batches, then one launch."""
    k, M, states, begin, ranges = tokens[1], len(shared[0]), list(packed.states), 0, []
    ys: list[Tensor | slice] = []
    for s, length in enumerate(packed.lengths):
        middle = begin + states[s].missing(length, M)
        if middle > begin:
            y, states[s] = read_piece(between(tokens, begin, middle), shared, memory, states[s])
            ys.append(y)
        begin += length
        ys.append(slice(middle, begin))  # of the launch's y
        ranges.append((middle, begin))
    weights = [torch.cat(ws) for ws in zip(*(state.weights for state in states), strict=True)]
    token_ranges = torch.tensor(ranges, dtype=torch.int32).to(k.device, non_blocking=True)
    y, *results = operate(tokens, shared, memory, weights, token_ranges)
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
    own = slots.operands[0] is not slots.weights[0]
    buffers = (slots.weights, slots.operands if own else (), slots.rows)
    shared = token_scale, norm_weight, norm_bias
    gate = log_keep, list(slots.start)
    return decode_(q, k, v, eta, *shared, *gate, *map(list, buffers), slots.places)


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
    log_keep: Tensor | None,
    start: list[Tensor],
    weights: list[Tensor],
    operands: list[Tensor],
    rows: list[Tensor],
    places: Tensor,
) -> Tensor:
    """One token per sequence; `operands` are empty where tokens are multiplied with the weights."""
    buffers = tuple(weights), tuple(operands or weights[::2]), tuple(rows), places
    slots = Slots(*buffers, tuple(start))
    with torch.cuda.device_of(places):
        return triton_decode.decode_(
            q, k, v, eta, token_scale, norm_weight, norm_bias, slots, log_keep
        )


@decode_.register_fake
def like_q(q: Tensor, *others: object) -> Tensor:
    return q.new_empty(q.shape)
