"""The specification: one token after the other, every gradient from torch.func.grad.

Token t reads through  weights - token_scale[t] * sum_{j <= t} eta_j dloss_j/dweights,  every
gradient taken at the mini-batch's starting weights; a full mini-batch takes the step with its last
token_scale. A forget gate g then moves the weights towards their start, W0 + g (W - W0). With
causal=False every token of a mini-batch reads through the weights after its whole step, before
the gate.

B batch, T tokens, H heads, D head dim, M mini-batch size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import inner
from .state import State, interleave, joined, pairs


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
    M = len(token_scale)
    norm = norm_weight[:, None], norm_bias[:, None]  # (H, 1, D)
    weights, rows, filled = state.weights, state.open, state.filled
    sums = dense_sums(rows, weights)
    ys = []
    for t in range(q.shape[1]):
        k_t, v_t = k[:, t, :, None], v[:, t, :, None]  # (B, H, 1, D)
        eta_t = eta[:, t, :, None, None]
        grads = torch.func.grad(inner.loss)(weights, k_t, v_t, norm)
        sums = tuple(s + eta_t * g for s, g in zip(sums, grads, strict=True))
        inputs, steps = inner.forward(k_t, weights)[0], [eta_t * g for g in grads[1::2]]
        rows = joined(rows, interleave(inputs, steps))
        current = tuple(w - token_scale[filled] * s for w, s in zip(weights, sums, strict=True))
        filled += 1
        if causal or filled == M:
            read = q[:, t if causal else t + 1 - M : t + 1].transpose(1, 2)  # (B, H, 1 or M, D)
            ys.append(read + inner.layer_norm(inner.forward(read, current)[1][-1], norm))
        if filled == M:
            if log_keep is not None:
                current = inner.forget(current, start, log_keep[:, t])
            weights, rows, filled = current, (), 0
            sums = dense_sums(rows, weights)
    return torch.cat(ys, dim=2).transpose(1, 2), State(weights, rows, filled)


def dense_sums(rows: tuple[Tensor, ...], weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The sum of gradients in the open rows: X^T S for each W, the sum of S for each b."""
    if not rows:
        return tuple(torch.zeros_like(w) for w in weights)
    return tuple(g for X, S in pairs(rows) for g in (X.mT @ S, S.sum(-2, keepdim=True)))
