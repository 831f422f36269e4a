"""The inner model without a norm, f(x) = x W: no LayerNorm, no residual, no bias; the target is v.

The paper starts from it (arXiv 2407.04620, section 2.6): with W0 = 0 and one mini-batch that holds
the whole sequence it is linear attention (theorem 1); with mini-batches of one token it is the
delta rule. The gradient of half the squared error is k^T (k W - v), so a mini-batch is linear
attention whose values are the errors of the weights at its start.

State has one fast weight, W (B, H, D, D), and one pair of open rows. Gradients are autograd's.

B batch, T tokens, H heads, D head dim, L tokens of a piece, M mini-batch size.
"""

import torch
from torch import Tensor

from tttvideo.kernels.baselines.linear_attention import linear_attention
from tttvideo.kernels.state import State, joined


def loss(weights: tuple[Tensor, ...], k: Tensor, v: Tensor) -> Tensor:
    """The inner loss, summed over everything: 1/2 ||k W - v||^2."""
    return 0.5 * (k @ weights[0] - v).square().sum()


def reference(
    q: Tensor, k: Tensor, v: Tensor, eta: Tensor, token_scale: Tensor, state: State
) -> tuple[Tensor, State]:
    """The specification, token by token; as ops.ttt_norm_free, in the state's dtype."""
    (W,), rows, filled = state.weights, state.open, state.filled
    total = rows[0].mT @ rows[1] if rows else torch.zeros_like(W)
    ys = []
    for t in range(q.shape[1]):
        q_t, k_t, v_t = (x[:, t, :, None] for x in (q, k, v))  # (B, H, 1, D)
        eta_t = eta[:, t, :, None, None]
        total = total + eta_t * torch.func.grad(loss)((W,), k_t, v_t)[0]
        rows = joined(rows, (k_t, eta_t * (k_t @ W - v_t)))
        current = W - token_scale[filled] * total
        ys.append(q_t @ current)
        filled += 1
        if filled == len(token_scale):
            W, rows, filled, total = current, (), 0, torch.zeros_like(W)
    return torch.stack([y[:, :, 0] for y in ys], dim=1), State((W,), rows, filled)


def read_tokens(
    q: Tensor, k: Tensor, v: Tensor, eta: Tensor, token_scale: Tensor, state: State
) -> tuple[Tensor, State]:
    """As `reference`, one mini-batch at a time."""
    M = len(token_scale)
    head, body, tail = state.cut(q.shape[1], M)
    lengths = [length for length in (head, *[M] * (body // M), tail) if length]
    ys = []
    parts = zip(*(x.split(lengths, dim=1) for x in (q, k, v, eta)), strict=True)
    for q_part, k_part, v_part, eta_part in parts:
        y, state = piece(q_part, k_part, v_part, eta_part, token_scale, state)
        ys.append(y)
    return torch.cat(ys, dim=1), state


def piece(
    q: Tensor, k: Tensor, v: Tensor, eta: Tensor, token_scale: Tensor, state: State
) -> tuple[Tensor, State]:
    """L <= M - filled tokens of the open mini-batch; y (B, L, H, D)."""
    q, k, v, eta = (x.transpose(1, 2) for x in (q, k, v, eta[..., None]))  # (B, H, L, .)
    (W,), rows = state.weights, state.open
    filled = state.filled + q.shape[2]
    S = eta * (k @ W - v)  # the gradients with respect to k W, times eta
    total = rows[0].mT @ rows[1] if rows else torch.zeros_like(W)
    seen, total = linear_attention(q, k, S, total)
    y = q @ W - token_scale[state.filled : filled, None] * seen
    if filled == len(token_scale):
        state = State((W - token_scale[-1] * total,))
    else:
        state = State((W,), joined(rows, (k, S)), filled)
    return y.transpose(1, 2), state
