"""The dual form: a piece of a mini-batch, or many whole mini-batches, as matmuls on any device.

Gradients are taken at the weights of the mini-batch's start, so all of its tokens can be computed
at once; token t then reads through the causal sum of the gradients up to t (arXiv 2407.04620,
section 2.5 and appendix A). A piece takes any inner depth, and autograd differentiates it. Whole
mini-batches, where training spends its time, have an operator with its own backward: forward.py,
backward.py.

B batch, H heads, L tokens of the piece, D head dim, M mini-batch size, N whole mini-batches.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tttvideo.kernels import inner
from tttvideo.kernels.operator import needs_backward
from tttvideo.kernels.state import State, interleave, joined, pairs

from . import linear, mlp


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
    state: State,
    log_keep: Tensor | None = None,
    start: Sequence[Tensor] = (),
    causal: bool = True,
) -> tuple[Tensor, State]:
    """Arguments as in ops.ttt_linear, in the state's dtype; y (B, T, H, D), the state after."""
    lengths, readers = zip(*cut(q.shape[1], state, len(token_scale)), strict=True)
    tokens = [split(x, lengths) for x in (q, k, v, eta, log_keep)]
    ys = []
    for read, *part, keep in zip(readers, *tokens, strict=True):
        y, state = read(*part, token_scale, norm_weight, norm_bias, state, keep, start, causal)
        ys.append(y)
    return torch.cat(ys, dim=1) if len(ys) > 1 else ys[0], state


def cut(T: int, state: State, M: int) -> list[tuple[int, Callable]]:
    """Lengths of the parts of T tokens, and the function that reads each."""
    parts = zip(state.cut(T, M), (piece, whole, piece), strict=True)
    return [(length, read) for length, read in parts if length]


def split(x: Tensor | None, lengths: tuple[int, ...]) -> tuple[Tensor | None, ...]:
    """x cut along its tokens; one part is x itself, since the gradient of a view is a copy."""
    if x is None or len(lengths) == 1:
        return (x,) * len(lengths)
    return x.split(lengths, dim=1)


def piece(
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
) -> tuple[Tensor, State]:
    """L <= M - filled tokens of the open mini-batch: decode (L = 1), the rest of one, a short end.

    q, k, v (B, L, H, D); eta, log_keep (B, L, H); token_scale (M,); norm_weight, norm_bias (H, D).
    Returns y like q, and the state after.
    """
    assert causal, "whole frames are whole mini-batches"
    q, k, v, eta = (x.transpose(1, 2) for x in (q, k, v, eta[..., None]))  # (B, H, L, .)
    norm = norm_weight[:, None], norm_bias[:, None]
    L = q.shape[-2]
    filled = state.filled + L
    z, z_read = inner.affine(torch.cat((k, q), dim=-2), state.weights).split(L, dim=-2)
    new = interleave(*scaled_gradient(k, z, v, eta, state.weights, norm))
    rows = joined(state.open, new)
    y = read(q, z_read, state.weights, rows, token_scale[state.filled : filled, None], norm)
    if filled == len(token_scale):
        weights = step(state.weights, rows, token_scale[-1])
        if log_keep is not None:
            weights = inner.forget(weights, start, log_keep[:, -1])
        state = State(weights)
    else:
        state = State(state.weights, rows, filled)
    return y.transpose(1, 2), state


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
) -> tuple[Tensor, State]:
    """Whole mini-batches, from a state with none open; arguments as in `piece`, L = N M."""
    inputs, weights = (q, k, v, eta, token_scale, norm_weight, norm_bias), state.weights
    gate = (log_keep, *start) if log_keep is not None else ()
    save = needs_backward(*inputs, *weights, *gate)
    y, *results = OPERATORS[len(weights)](*inputs, log_keep, weights, start, None, causal, save)
    return y, State(tuple(results[: len(weights)]))


def scaled_gradient(
    k: Tensor, z: Tensor, v: Tensor, eta: Tensor, weights: Sequence[Tensor], norm: inner.Norm
) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs X and gradients times eta, S, per inner layer; z = affine(k, weights)."""
    inputs, grads = inner.gradient(k, z, v, weights, norm)
    return inputs, [eta * G for G in grads]


def read(
    q: Tensor,
    z: Tensor,
    weights: Sequence[Tensor],
    rows: Sequence[Tensor],
    scale: Tensor,
    norm: inner.Norm,
) -> Tensor:
    """q + LayerNorm(F(q)) with the weights that each token sees, W - scale_t sum_{j<=t} X_j^T S_j.

    q (..., L, D); z = affine(q, weights); rows (..., R, features); the last L of R are of q's own
    tokens.
    """
    x = q
    for layer, ((W, b), (X, S)) in enumerate(zip(pairs(weights), pairs(rows), strict=True)):
        if layer:
            x = inner.gelu(z)
            z = x @ W + b
        mix = torch.tril(x @ X.mT + 1, diagonal=X.shape[-2] - q.shape[-2])  # row t reads column j
        z = z - (scale * mix) @ S
    return q + inner.layer_norm(z, norm)


def step(weights: Sequence[Tensor], rows: Sequence[Tensor], scale: Tensor) -> tuple[Tensor, ...]:
    """The weights after a full mini-batch: W - scale X^T S, b - scale sum S."""
    new = []
    for (W, b), (X, S) in zip(pairs(weights), pairs(rows), strict=True):
        S = scale * S
        flat = (x.flatten(0, -3) for x in (W, X.mT, S))
        new += [torch.baddbmm(*flat, alpha=-1).view(W.shape), b - S.sum(-2, keepdim=True)]
    return tuple(new)
