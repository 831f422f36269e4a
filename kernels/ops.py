"""The inner loop as functions of tensors: ttt_linear, ttt_mlp, ttt_norm_free, and ttt_decode_.

Each checks its arguments, chooses a backend and lets it read the tokens. Any cut of a sequence into
calls gives the same output and the same final state.

B batch, T tokens, H heads, D head dim, E inner hidden, M mini-batch size.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from tttvideo.kernels.dual import decode, norm_free, piece

from . import reference
from .backends import choose_backend, log_choice
from .checks import check_call, check_decoding
from .slots import Slots
from .state import Packed, State, states_of


P = TypeVar("P", State, Packed[State])


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
        backend: "auto" (the fastest available), "triton", "dual" or "reference".
    Returns: y (B, T, H, D) = q + LayerNorm(F(q)) in q's dtype, and the state after the T tokens.
    Raises: ValueError for a shape, dtype, size or backend that does not fit.
    """
    norm = norm_weight, norm_bias
    check_call(q, k, v, eta, token_scale, norm, state, 1, mini_batch_size)
    read = reader(backend, (q, k, v), state, mini_batch_size)
    with torch.autocast(q.device.type, enabled=False):
        return read(q, k, v, eta, token_scale, norm_weight, norm_bias, state)


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
    backend: str = "auto",
) -> tuple[Tensor, P]:
    """Read T tokens with an inner two-layer MLP that learns from each (arXiv 2407.04620).

    As `ttt_linear`, with state weights (B, H, D, E), (B, H, 1, E), (B, H, E, D), (B, H, 1, D).
    """
    norm = norm_weight, norm_bias
    check_call(q, k, v, eta, token_scale, norm, state, 2, mini_batch_size)
    read = reader(backend, (q, k, v), state, mini_batch_size)
    with torch.autocast(q.device.type, enabled=False):
        return read(q, k, v, eta, token_scale, norm_weight, norm_bias, state)


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
    check_call(q, k, v, eta, token_scale, (), state, 0, mini_batch_size)
    read = reader(backend, (q, k, v), state, mini_batch_size)
    with torch.autocast(q.device.type, enabled=False):
        return read(q, k, v, eta, token_scale, state)


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
    backend: str = "auto",
) -> Tensor:
    """Read one token of each sequence with the inner model of `slots`, and update `slots`.

    The fast way to decode; a CUDA graph can hold it with backend "triton". It has no gradients.
    Arguments as in `ttt_linear`, with T = 1 and q, k and v in the dtype that the slots were made
    for; each sequence has its own place in its mini-batch. Returns y (B, 1, H, D).
    Raises: ValueError for a shape, dtype, size or backend that does not fit.
    """
    check_decoding(q, k, v, eta, token_scale, (norm_weight, norm_bias), slots)
    name = choose(backend, (q, k, v), slots.weights, slots.rows[0].shape[2])
    if name == "reference":
        raise ValueError("backend 'reference' reads States; slots are for 'dual' and 'triton'")
    dtype = slots.weights[0].dtype
    shared = token_scale, norm_weight, norm_bias
    token_scale, norm_weight, norm_bias = (x.to(dtype).contiguous() for x in shared)
    eta = eta.to(dtype)
    with torch.autocast(q.device.type, enabled=False):
        if name == "dual":
            return decode.decode_(q, k, v, eta, token_scale, norm_weight, norm_bias, slots)
        from tttvideo.kernels.gpu import launch  # it imports triton, an optional package

        return launch.decode(q, k, v, eta, token_scale, norm_weight, norm_bias, slots)


def reader(
    backend: str, tokens: tuple[Tensor, Tensor, Tensor], state: State | Packed[State], M: int
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
    backend: str, tokens: tuple[Tensor, Tensor, Tensor], weights: tuple[Tensor, ...], M: int
) -> str:
    name, reason = choose_backend(backend, tokens, weights, M)
    if not torch.compiler.is_compiling():
        log_choice(name, reason)
    return name


def read_in_state_dtype(
    read: Callable, q: Tensor, k: Tensor, v: Tensor, eta: Tensor, *shared_and_state: Any
) -> tuple[Tensor, State | Packed[State]]:
    """Apply `read` in the dtype of the state, to packed sequences one after the other."""
    *shared, state = shared_and_state
    dtype = states_of(state)[0].weights[0].dtype
    tokens, shared = ([x.to(dtype) for x in xs] for xs in ((q, k, v, eta), shared))
    if isinstance(state, State):
        y, state = read(*tokens, *shared, state)
        return y.to(q.dtype), state
    sequences = zip(*(x.split(state.lengths, dim=1) for x in tokens), state.states, strict=True)
    parts = [read(*own, *shared, one) for *own, one in sequences]
    ys, states = zip(*parts, strict=True)
    return torch.cat(ys, dim=1).to(q.dtype), Packed(states, state.lengths)
