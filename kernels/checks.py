"""Refusals: every check of the operators' arguments, with the reason and the allowed value.

All functions raise ValueError. B batch, T tokens, H heads, D head dim, E inner hidden, M mini-batch
size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .slots import Slots
from .state import Packed, State, states_of


def check_call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm: tuple[Tensor, ...],
    state: State | Packed[State],
    depth: int,
    M: int,
) -> None:
    """Check the arguments of an operator whose inner model has `depth` layers, 0 without a norm."""
    check_tokens(q, k, v, eta, token_scale, norm, M)
    check_packing(q, state)
    for one in {id(one): one for one in states_of(state)}.values():  # many may share one
        check_weights(one, depth, q.shape[-1])
        check_state(q, one, M)


def check_memory(
    q: Tensor,
    state: State | Packed[State],
    M: int,
    log_keep: Tensor | None,
    start: Sequence[Tensor] | None,
    causal: bool,
) -> None:
    """Check the forget gate and, where a whole frame is read at once, that there is no other."""
    check_gate(q, states_of(state)[0].weights, log_keep, start)
    lengths = state.lengths if isinstance(state, Packed) else (q.shape[1],)
    filled = [one.filled for one in states_of(state)]
    if not causal and (any(filled) or any(T % M for T in lengths)):
        raise ValueError(
            f"with causal=False sequences of {lengths} tokens begin at places {filled} of their "
            f"mini-batches of {M}; they must be whole mini-batches and begin at 0"
        )


def check_gate(
    q: Tensor,
    weights: Sequence[Tensor],
    log_keep: Tensor | None,
    start: Sequence[Tensor] | None,
) -> None:
    if (log_keep is None) != (not start):
        raise ValueError(
            "log_keep and start are the forget gate and the weights it moves towards; give both "
            "or neither"
        )
    if log_keep is None or not start:
        return
    dtype = weights[0].dtype
    if log_keep.shape != q.shape[:3] or log_keep.dtype != dtype:
        raise ValueError(
            f"log_keep is {describe(log_keep)}; it must be {dtype} of shape (batch, tokens, heads)"
            f" = {tuple(q.shape[:3])}, the logarithm of the share that is kept, at most 0"
        )
    came, wanted = [[tuple(w.shape) for w in start], [tuple(w.shape[1:]) for w in weights]]
    if came != wanted or {w.dtype for w in start} != {dtype}:
        raise ValueError(
            f"start is {list(map(describe, start))}; it must be {dtype} of shapes {wanted}, the "
            "state's weights without their batch"
        )


def check_decoding(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm: tuple[Tensor, ...],
    slots: Slots,
    log_keep: Tensor | None,
) -> None:
    """Check the arguments of `ttt_decode_`."""
    M, dtype = slots.rows[0].shape[2], slots.rows[0].dtype
    check_tokens(q, k, v, eta, token_scale, norm, M)
    check_weights(slots, len(slots.weights) // 2, q.shape[-1])
    check_state(q, State(slots.weights), M)
    check_gate(q, slots.weights, log_keep, slots.start)
    if q.shape[1] != 1 or {x.dtype for x in (q, k, v)} != {dtype}:
        raise ValueError(
            f"q is {describe(q)}; decoding takes one token of {dtype} at a time, the dtype that "
            "the slots were made for"
        )


def check_tokens(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm: tuple[Tensor, ...],
    M: int,
) -> None:
    """Check shapes and dtypes; `norm` is (norm_weight, norm_bias), or () without a norm."""
    if q.ndim != 4 or not q.is_floating_point() or 0 in q.shape:
        raise ValueError(f"q is {describe(q)}; it must be floats (batch, tokens, heads, head dim)")
    B, T, H, D = q.shape
    for name, x in (("k", k), ("v", v)):
        if x.shape != q.shape:
            raise ValueError(f"{name} is {describe(x)}; it must have q's shape, {tuple(q.shape)}")
    if eta.shape != (B, T, H):
        raise ValueError(
            f"eta is {describe(eta)}; it must be (batch, tokens, heads) = {(B, T, H)}, one inner "
            "learning rate per token and head, of the token that writes"
        )
    if M < 1 or token_scale.shape != (M,):
        raise ValueError(
            f"token_scale is {describe(token_scale)}; it must be (mini_batch_size,) = ({M},), "
            "at least one token long"
        )
    for name, x in zip(("norm_weight", "norm_bias"), norm, strict=False):
        if x.shape != (H, D):
            raise ValueError(f"{name} is {describe(x)}; it must be (heads, head dim) = {(H, D)}")


def check_packing(q: Tensor, state: State | Packed[State]) -> None:
    if isinstance(state, State):
        return
    if not isinstance(state, Packed):
        raise ValueError(f"state is a {type(state).__name__}; it must be a State or a Packed")
    B, T = q.shape[:2]
    lengths, count = state.lengths, len(state.states)
    if B != 1:
        raise ValueError(f"q has a batch of {B}; with packed sequences it must be 1")
    if count != len(lengths):
        raise ValueError(
            f"state has {count} States; for {len(lengths)} lengths it must have one each"
        )
    if sum(lengths) != T or min(lengths, default=0) < 1:
        raise ValueError(
            f"state.lengths are {lengths}; they must be 1 or more and add up to the {T} tokens"
        )


def check_weights(state: State | Slots, depth: int, D: int) -> None:
    """Check the last two axes of each weight, layer by layer."""
    came = tuple(tuple(w.shape[-2:]) for w in state.weights)
    E = came[0][-1] if came and depth == 2 else 4 * D
    shapes = (((D, D),), ((D, D), (1, D)), ((D, E), (1, E), (E, D), (1, D)))[depth]
    if came != shapes:
        raise ValueError(f"state.weights end in {came}; for this head dim they must be {shapes}")


def check_state(q: Tensor, state: State, M: int) -> None:
    B, _, H, _ = q.shape
    allowed = torch.float64 if q.dtype == torch.float64 else torch.float32
    for x in (*state.weights, *state.open):
        if x.shape[:2] != (B, H) or x.dtype != allowed:
            raise ValueError(
                f"a tensor of the state is {describe(x)}; for this q it must be {allowed} and "
                f"begin with (batch, heads) = {(B, H)}"
            )
    if not 0 <= state.filled < M:
        raise ValueError(f"state.filled is {state.filled}; it must be from 0 to {M - 1}")
    wanted = [(B, H, state.filled, n) for W in state.weights[::2] for n in W.shape[-2:]]
    came = [tuple(x.shape) for x in state.open]
    if came != (wanted if state.filled else []):
        raise ValueError(
            f"state.open is {came}; with filled = {state.filled} it must be "
            f"{wanted if state.filled else 'empty'}"
        )


def describe(x: Tensor) -> str:
    return f"{x.dtype} of shape {tuple(x.shape)}"
