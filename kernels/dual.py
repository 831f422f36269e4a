"""The dual form: a piece of a mini-batch, or many whole mini-batches, as matmuls on any device.

Gradients are taken at the weights of the mini-batch's start, so all of its tokens can be computed
at once; token t then reads through the causal sum of the gradients up to t (arXiv 2407.04620,
section 2.5 and appendix A). A piece is open to plain autograd and to any depth; whole mini-batches,
where training spends its time, have a walk of their own, forward and back: walk.py, adjoint.py.

B batch, H heads, L tokens of the piece, D head dim, M mini-batch size, N whole mini-batches.
"""

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from . import adjoint, dual_linear, dual_mlp, inner, walk
from .state import State, pairs


MODELS = {2: dual_linear, 4: dual_mlp}  # by the number of fast weights


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
    q, k, v, eta = (x.transpose(1, 2) for x in (q, k, v, eta[..., None]))  # (B, H, L, .)
    norm = tuple(n[:, None] for n in norm)
    filled = state.filled + q.shape[-2]
    rows = interleave(*scaled_gradient(k, v, eta, state.weights, norm))
    if state.filled:
        rows = tuple(torch.cat(both, dim=-2) for both in zip(state.open, rows, strict=True))
    else:
        rows = tuple(x.clone() for x in rows)  # not views that would keep all of k
    y = read(q, state.weights, rows, token_scale[state.filled : filled, None], norm)
    if filled == len(token_scale):
        state = State(step(state.weights, rows, token_scale[-1]))
    else:
        state = State(state.weights, rows, filled)
    return y.transpose(1, 2), state


def whole(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm: inner.Norm,
    state: State,
) -> tuple[Tensor, State]:
    """Whole mini-batches, from a state with none open; arguments as in `piece`, L = N M."""
    assert len(state.weights) in MODELS, "whole mini-batches: one or two inner layers"
    model = MODELS[len(state.weights)]
    operands = q, k, v, eta, token_scale, *norm
    if torch.is_grad_enabled() and any(x.requires_grad for x in (*operands, *state.weights)):
        y, *weights = Whole.apply(model, *operands, *state.weights)
    else:
        y, weights = walk.forward(model.descend, operands, state.weights)
    return y, State(tuple(weights))


class Whole(torch.autograd.Function):
    """A walk with a backward of its own, in 1/6 of the memory that autograd takes, an MLP 1/20."""

    @staticmethod
    def forward(ctx, model: ModuleType, *tensors: Tensor) -> tuple[Tensor, ...]:
        operands, tape = tensors[:7], []
        y, weights = walk.forward(model.descend, operands, tensors[7:], tape)
        ctx.model = model
        ctx.save_for_backward(*operands, *weights, *tape)
        return y, *weights

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # once_differentiable would let a second derivative vanish where `grads` are constants
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the dual form differentiates whole mini-batches once; use backend='reference' "
                "where create_graph=True is needed"
            )
        saved, W = ctx.saved_tensors, 7 + len(grads) - 1
        with torch.autocast(grads[0].device.type, enabled=False):
            return None, *adjoint.backward(
                ctx.model.Ascent, grads, saved[:7], saved[7:W], saved[W:]
            )


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
