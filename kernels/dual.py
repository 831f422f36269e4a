"""The dual form: a piece of a mini-batch, or many whole mini-batches, as matmuls on any device.

Gradients are taken at the weights of the mini-batch's start, so all of its tokens can be computed
at once; token t then reads through the causal sum of the gradients up to t (arXiv 2407.04620,
section 2.5 and appendix A). Only the chain of states is a loop, over mini-batches; the rest is
batched.

B batch, H heads, L tokens of the piece, M mini-batch size, N whole mini-batches, T = N M tokens.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from . import inner
from .state import State, pairs


def piece(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm: inner.Norm,
    state: State,
) -> tuple[Tensor, State]:
    """L <= M - filled tokens of the open mini-batch: decode (L = 1), the rest of one, a short end.

    q, k, v (B, L, H, D); eta (B, L, H); token_scale (M,); norm a pair of (H, D). Returns y like q.
    """
    q, k, v, eta = (rearrange(x, "b l h d -> b h l d") for x in (q, k, v, eta[..., None]))
    norm = tuple(n[:, None] for n in norm)
    filled = state.filled + q.shape[-2]
    rows = interleave(*scaled_gradient(k, v, eta, state.weights, norm))
    if state.filled:
        rows = tuple(torch.cat(both, dim=-2) for both in zip(state.open, rows, strict=True))
    y = read(q, state.weights, rows, token_scale[state.filled : filled, None], norm)
    if filled == len(token_scale):
        state = State(step(state.weights, rows, token_scale[-1]))
    else:
        state = State(state.weights, rows, filled)
    return rearrange(y, "b h l d -> b l h d"), state


def whole(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm: inner.Norm,
    state: State,
) -> tuple[Tensor, State]:
    """N whole mini-batches from a state with none open; arguments as in `piece` with T for L."""
    M, B = len(token_scale), len(q)
    q, k, v, eta = (
        rearrange(x, "b (n m) h d -> n (b h) m d", m=M) for x in (q, k, v, eta[..., None])
    )
    norm = tuple(n.repeat(B, 1)[:, None] for n in norm)  # (B H, 1, D)
    weights = tuple(w.flatten(0, 1) for w in state.weights)
    starts, rows = [], []
    # unbind, because an indexed tensor's gradient is as long as the tensor: T^2 work in backward
    for k_n, v_n, eta_n in zip(k.unbind(), v.unbind(), eta.unbind(), strict=True):
        starts.append(weights)
        rows.append(interleave(*scaled_gradient(k_n, v_n, eta_n, weights, norm)))
        weights = step(weights, rows[-1], token_scale[-1])
    y = read(q, stack(starts), stack(rows), token_scale[:, None], norm)
    state = State(tuple(w.unflatten(0, (B, -1)) for w in weights))
    return rearrange(y, "n (b h) m d -> b (n m) h d", b=B), state


def scaled_gradient(
    k: Tensor, v: Tensor, eta: Tensor, weights: Sequence[Tensor], norm: inner.Norm
) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs X and gradients times eta, S, per inner layer, at `weights`."""
    inputs, grads = inner.gradient(k, v, weights, norm)
    return inputs, [eta * G for G in grads]


def read(
    q: Tensor, weights: Sequence[Tensor], rows: Sequence[Tensor], scale: Tensor, norm: inner.Norm
) -> Tensor:
    """q + LayerNorm(F(q)) through what each token sees, W - scale_t sum_{j<=t} X_j^T S_j.

    q (..., L, D); rows (..., R, features) with the last L of R rows written by q's own tokens.
    """
    x = q
    for layer, ((W, b), (X, S)) in enumerate(zip(pairs(weights), pairs(rows), strict=True)):
        x = inner.gelu(x) if layer else x
        mix = torch.tril(x @ X.mT + 1, diagonal=X.shape[-2] - q.shape[-2])  # row t reads column j
        x = x @ W + b - scale * (mix @ S)
    return q + inner.layer_norm(x, norm)


def step(weights: Sequence[Tensor], rows: Sequence[Tensor], scale: Tensor) -> tuple[Tensor, ...]:
    """The weights after a full mini-batch: W - scale X^T S, b - scale sum S."""
    new = []
    for (W, b), (X, S) in zip(pairs(weights), pairs(rows), strict=True):
        S = scale * S
        new += [W - X.mT @ S, b - S.sum(-2, keepdim=True)]
    return tuple(new)


def interleave(inputs: list[Tensor], steps: list[Tensor]) -> tuple[Tensor, ...]:
    return tuple(x for pair in zip(inputs, steps, strict=True) for x in pair)


def stack(tuples: list[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.stack(column) for column in zip(*tuples, strict=True)]
