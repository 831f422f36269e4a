"""The inner loop as functions of tensors: ttt_linear, ttt_mlp, ttt_norm_free, and ttt_decode_.

Each checks its arguments, chooses a backend and lets it read the tokens. Any cut of a sequence into
calls gives the same output and the same final state.

B batch, T tokens, H heads, D head dim, E inner hidden, M mini-batch size.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from tttvideo.kernels.dual import decode, norm_free, piece

from . import reference
from .backends import choose_backend, log_choice
from .checks import check_call, check_decoding, check_memory
from .slots import Slots
from .state import Packed, State, alike, batched, in_order, states_of, unbatched


P = TypeVar("P", State, Packed[State])
Memory = tuple[Tensor | None, Sequence[Tensor] | None, bool]  # log_keep, start, causal
PAPER: Memory = (None, None, True)


def ttt_linear(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    state: P,
    *,
    mini_batch_size: int,
    log_keep: Tensor | None = None,
    start: Sequence[Tensor] | None = None,
    causal: bool = True,
    backend: str = "auto",
) -> tuple[Tensor, P]:
    """Read T tokens with an inner linear model that learns from each (arXiv 2407.04620).

    Arguments:
        q, k, v: (B, T, H, D) after rotary positions; float32, float64, bfloat16 or float16.
        eta: (B, T, H), inner learning rate of the token that writes.
        token_scale: (M,), factor of the token that reads, by its place in the mini-batch.
        norm_weight, norm_bias: (H, D), inner LayerNorm.
        state: weights (B, H, D, D), (B, H, 1, D), float32 (float64 for float64 inputs). Or a Packed
            of such states with B = 1: its sequences lie one after the other in the T tokens.
        mini_batch_size: M, tokens that share one inner step.
        log_keep, start: a forget gate, or neither. log_keep (B, T, H), float32 (float64 for float64
            inputs) and at most 0, is log g, read at the token that fills a mini-batch; the weights
            then move towards start, W0 + g (W - W0). start: (H, D, D), (H, 1, D), its dtype.
        causal: False lets every token of a mini-batch read after the step of all its tokens, before
            the gate, for instance where a mini-batch is a frame of a video. The tokens must be
            whole mini-batches, and of token_scale the last element alone is used.
        backend: "auto" (the fastest available), "triton", "dual" or "reference".
    Returns: y (B, T, H, D) = q + LayerNorm(F(q)) in q's dtype, and the state after the T tokens.
    Raises: ValueError for a shape, dtype, size or backend that does not fit.
    """
    operands = q, k, v, eta, token_scale, norm_weight, norm_bias, state
    return read_tokens(1, operands, mini_batch_size, (log_keep, start, causal), backend)


def ttt_mlp(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    state: P,
    *,
    mini_batch_size: int,
    log_keep: Tensor | None = None,
    start: Sequence[Tensor] | None = None,
    causal: bool = True,
    backend: str = "auto",
) -> tuple[Tensor, P]:
    """Read T tokens with an inner two-layer MLP that learns from each (arXiv 2407.04620).

    As `ttt_linear`, with state weights (B, H, D, E), (B, H, 1, E), (B, H, E, D), (B, H, 1, D), and
    start alike without B.
    """
    operands = q, k, v, eta, token_scale, norm_weight, norm_bias, state
    return read_tokens(2, operands, mini_batch_size, (log_keep, start, causal), backend)


def ttt_norm_free(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    state: P,
    *,
    mini_batch_size: int,
    backend: str = "auto",
) -> tuple[Tensor, P]:
    """Read T tokens with f(x) = x W, which learns to map k to v; see dual/norm_free.py.

    As `ttt_linear`, with one state weight, (B, H, D, D), and y = q W. It has no Triton kernel.
    """
    operands = q, k, v, eta, token_scale, state
    return read_tokens(0, operands, mini_batch_size, PAPER, backend)


@torch.no_grad()
def ttt_decode_(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    slots: Slots,
    *,
    log_keep: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Read one token of each sequence with the inner model of `slots`, and update `slots`.

    The fast way to decode; a CUDA graph can hold it with backend "triton". It has no gradients.
    Arguments as in `ttt_linear`, with T = 1 and q, k and v in the dtype that the slots were made
    for; each sequence has its own place in its mini-batch. log_keep (B, 1, H) is for slots with a
    start. Returns y (B, 1, H, D).
    Raises: ValueError for a shape, dtype, size or backend that does not fit.
    """
    check_decoding(q, k, v, eta, token_scale, (norm_weight, norm_bias), slots, log_keep)
    M = slots.rows[0].shape[2]
    name = choose(backend, (q, k, v), slots.weights, M)
    if name == "reference":
        raise ValueError("backend 'reference' reads States; slots are for 'dual' and 'triton'")
    dtype = slots.weights[0].dtype
    shared = token_scale, norm_weight, norm_bias
    token_scale, norm_weight, norm_bias = (x.to(dtype).contiguous() for x in shared)
    eta = eta.to(dtype)
    with torch.autocast(q.device.type, enabled=False):
        if name == "dual":
            return decode.decode_(
                q, k, v, eta, token_scale, norm_weight, norm_bias, slots, log_keep
            )
        from tttvideo.kernels.gpu import launch  # it imports triton, an optional package

        return launch.decode(q, k, v, eta, token_scale, norm_weight, norm_bias, slots, log_keep)


def read_tokens(
    depth: int, operands: tuple, M: int, memory: Memory, backend: str
) -> tuple[Tensor, Any]:
    """y and the state after, of an inner model of `depth` layers, 0 without a norm.

    operands: q, k, v, eta, token_scale, the norm, state.
    """
    q, k, v, eta, token_scale, *norm, state = operands
    log_keep, start, causal = memory
    check_call(q, k, v, eta, token_scale, tuple(norm), state, depth, M)
    check_memory(q, state, M, *memory)
    read = reader(backend, (q, k, v), state, M)
    names = {"log_keep": log_keep, "start": tuple(start or ()), "causal": causal}
    with torch.autocast(q.device.type, enabled=False):
        return read(*operands, **(names if depth else {}))


def reader(
    backend: str,
    tokens: tuple[Tensor, Tensor, Tensor],
    state: State | Packed[State],
    M: int,
) -> Callable:
    """The function of the chosen backend that reads the tokens q, k and v, and their eta."""
    weights = states_of(state)[0].weights
    name = choose(backend, tokens, weights, M)
    if name == "triton":
        from tttvideo.kernels.gpu import launch  # it imports triton, an optional package

        return launch.read_tokens
    backends: dict[str, Callable] = {
        "dual": piece.read_tokens if len(weights) > 1 else norm_free.read_tokens,
        "reference": reference.read_tokens if len(weights) > 1 else norm_free.reference,
    }
    return partial(read_in_state_dtype, backends[name])


def choose(
    backend: str,
    tokens: tuple[Tensor, Tensor, Tensor],
    weights: tuple[Tensor, ...],
    M: int,
) -> str:
    name, reason = choose_backend(backend, tokens, weights, M)
    if not torch.compiler.is_compiling():
        log_choice(name, reason)
    return name


def read_in_state_dtype(
    read: Callable,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    *shared_and_state: Any,
    **memory: Any,
) -> tuple[Tensor, State | Packed[State]]:
    """Apply `read` in the dtype of the state; to packed sequences in batches of equal lengths."""
    *shared, state = shared_and_state
    dtype = states_of(state)[0].weights[0].dtype
    tokens, shared = ([x.to(dtype) for x in xs] for xs in ((q, k, v, eta), shared))
    if isinstance(state, State):
        y, state = read(*tokens, *shared, state, **memory)
        return y.to(q.dtype), state
    groups, ys, found = alike(state, lambda one: one.filled), [], []
    log_keep = memory.pop("log_keep", None)
    by_token = [*tokens] if log_keep is None else [*tokens, log_keep]
    parts = zip(*(batched(x, state.lengths, groups) for x in by_token), strict=True)
    for group, (*own, last) in zip(groups, parts, strict=True):
        before = State.batch([state.states[i] for i in group])
        if log_keep is None:
            y, after = read(*own, last, *shared, before, **memory)
        else:
            y, after = read(*own, *shared, before, log_keep=last, **memory)
        ys.append(y)
        found.append(after.split() if len(group) > 1 else [after])
    after = Packed(tuple(in_order(found, groups)), state.lengths)
    return unbatched(ys, groups).to(q.dtype), after
