"""Whole mini-batches as a plain loop that autograd differentiates; tests and benchmarks use it.

It computes the same function as dual/ with the same formulas, but its backward pass is autograd's:
slower, and with more memory. Any inner depth.

B batch, H heads, D head dim, M mini-batch size, N whole mini-batches, T = N M tokens.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tttvideo.kernels.dual.piece import read, scaled_gradient, step

from . import inner
from .state import State, interleave


def whole(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    state: State,
    log_keep: Tensor | None = None,
    start: Sequence[Tensor] = (),
    causal: bool = True,
    write: Callable | None = None,
    read: Callable = read,
) -> tuple[Tensor, State]:
    """N whole mini-batches from a state with none open; arguments as in dual.piece.whole.

    `write` and `read` may be compiled versions of the functions of this name.
    """
    B, T, H, D = q.shape
    shared = token_scale, norm_weight, norm_bias
    starts, rows, ends, weights = loop(k, v, eta, *shared, state, log_keep, start, write)
    q, norm = by_mini_batch(q, len(token_scale)), by_head(norm_weight, norm_bias, B)
    if causal:
        y = read(q, inner.affine(q, starts), starts, rows, token_scale[:, None], norm)
    else:
        y = q + inner.layer_norm(inner.forward(q, ends)[1][-1], norm)
    y = y.unflatten(1, (B, H)).permute(1, 0, 3, 2, 4).reshape(B, T, H, D)
    return y, State(tuple(w.unflatten(0, (B, H)) for w in weights))


def loop(
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    state: State,
    log_keep: Tensor | None = None,
    start: Sequence[Tensor] = (),
    write: Callable | None = None,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], tuple[Tensor, ...]]:
    """Weights before each mini-batch, its rows, the weights after its step, before they forget,
    all (N, B H, ., .), and the weights after the last mini-batch.
    """
    write, M = write or write_mini_batch, len(token_scale)
    norm = by_head(norm_weight, norm_bias, len(k))
    weights = tuple(w.flatten(0, 1) for w in state.weights)
    starts, rows, ends = [], [], []
    W0 = [w.repeat(len(k), 1, 1) for w in start]
    keep = None if log_keep is None else log_keep[:, M - 1 :: M].transpose(0, 1).flatten(1)
    # unbind, because the gradient of an indexed tensor is as long as the tensor: T^2 work
    tokens = (by_mini_batch(x, M).unbind() for x in (k, v, eta[..., None]))
    for n, (k_n, v_n, eta_n) in enumerate(zip(*tokens, strict=True)):
        starts.append(weights)
        rows_n, weights = write(k_n, v_n, eta_n, token_scale[-1], weights, norm)
        rows.append(rows_n)
        ends.append(weights)
        if keep is not None:
            weights = inner.forget(weights, W0, keep[n])
    return stack(starts), stack(rows), stack(ends), weights


def write_mini_batch(
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    scale: Tensor,
    weights: Sequence[Tensor],
    norm: inner.Norm,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """A mini-batch's rows and the weights after its step; k, v (B H, M, D), eta (B H, M, 1)."""
    z = inner.affine(k, weights)
    rows = interleave(*scaled_gradient(k, z, v, eta, weights, norm))
    return rows, step(weights, rows, scale)


def by_mini_batch(x: Tensor, M: int) -> Tensor:
    """x (B, N M, H, features) as (N, B H, M, features)."""
    return x.unflatten(1, (-1, M)).permute(1, 0, 3, 2, 4).flatten(1, 2)


def by_head(norm_weight: Tensor, norm_bias: Tensor, B: int) -> inner.Norm:
    """Both as (B H, 1, D)."""
    return norm_weight.repeat(B, 1)[:, None], norm_bias.repeat(B, 1)[:, None]


def stack(tuples: list[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.stack(column) for column in zip(*tuples, strict=True)]
