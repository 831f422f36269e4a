"""Whole mini-batches, backward: the part that TTT-Linear and TTT-MLP have in common.

z is a row of the last layer's output, x = (z - mean) r, r = (var z + eps)^-1/2, and P projects,
P d = d - mean d - x mean(x d). With the norm's weight g and bias s (arXiv 2407.04620, section 2)

    y = q + s + g x                                                     at a reader
    S = eta G,  G = dloss/dz = r P p,  p = g f,  f = k + s + g x - v    at a writer

P is symmetric, and so is the loss's Hessian. Derived here, dX being the gradient of X:

    dz = r P(g dy)                                                      at a reader
    dz = r P(h dp) - eta r / D (<x, dS> G + (deta + e <x, dS>) x)       at a writer, where
         dp = eta r P dS,  deta = <G, dS>,  h = g^2 - mean(x p),  e = eps r^3 mean(x p)
    dk += g dp,  dv = -g dp,  dg = sum(x dy + (f + g x) dp),  ds = sum(dy + g dp)

B batch, H heads, M mini-batch size, D head dim, n mini-batches in a group, L = B H.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tttvideo.kernels.inner import EPS

from .forward import MiniBatches, add_product, empty_like, separated, steps


def backward(
    BackwardState: Callable,
    grads: Sequence[Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    log_keep: Tensor | None,
    weights: Sequence[Tensor],
    start: Sequence[Tensor],
    results: Sequence[Tensor],
    token_ranges: None,
    causal: bool,
) -> list[Tensor]:
    """Gradients of forward's inputs and weights, given those of y and of the weights after.

    results: forward's, without y.
    """
    after, tape = results[: len(weights)], results[len(weights) :]
    batches = MiniBatches(q, token_scale, norm_weight, norm_bias, weights)
    shared = SharedGradients(batches)
    state = BackwardState(batches, shared, after, grads[1:])
    dq, dk, dv, deta = found = empty_like(q, k, v, eta)
    dq, dk, dv, deta = map(batches.split, (dq, dk, dv, deta[..., None]))
    q, k, v, eta, dy = map(batches.split, (q, k, v, eta[..., None], grads[0]))
    eta = eta.contiguous()
    for g in reversed(batches.groups()):
        x, r, x_read, r_read, *hidden = (saved[g] for saved in tape)
        qk, Q, K = batches.join(q[g], k[g])
        dy_g = dy[g].contiguous()
        dZb, S = state.allocate(len(x))
        output_backward(dy_g, x_read, r_read, batches, shared, out=dZb)
        inner = InnerGradient(x, r, K, v[g], eta[g], batches, S)
        dq_g, dk_g = empty_like(x, x)
        dA = state.backward_group(qk, Q @ K.mT, *hidden, inner, dq_g, dk_g)
        dtarget = inner.target_backward(shared)
        torch.add(add_product(dq_g, dA, K[..., :-1]), dy_g, out=dq[g])
        torch.add(add_product(dk_g, dA.mT, Q[..., :-1]), dtarget, out=dk[g])
        torch.neg(dtarget, out=dv[g])
        deta[g] = inner.deta
    dweights = (w for dW in state.gradients for w in separated(dW, batches.B))
    return [*found, *shared.results(), *dweights]


class SharedGradients:
    """Gradients of token_scale and the norm, summed by element and reduced once, at the end."""

    def __init__(self, batches: MiniBatches):
        self.mix = batches.empty(batches.n, batches.M).zero_()  # of token_scale, where tokens read
        self.last: list[Tensor] = []  # of its last element, in the step
        self.norm_weight, self.norm_bias = (
            batches.empty(batches.n, batches.D).zero_() for _ in range(2)
        )

    def step_sum(self, *shape: int) -> Tensor:
        """A new sum, to be subtracted from the gradient of token_scale's last element."""
        self.last.append(self.mix.new_zeros(shape))
        return self.last[-1]

    def results(self) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of token_scale (M,), norm_weight and norm_bias (H, D)."""
        token_scale = -torch.tril(self.mix.sum((0, 1, 2))).sum(-1)
        token_scale[-1] -= sum(x.sum() for x in self.last)
        return token_scale, self.norm_weight.sum((0, 1, 3)), self.norm_bias.sum((0, 1, 3))


def output_backward(
    dy: Tensor, x: Tensor, r: Tensor, batches: MiniBatches, shared: SharedGradients, out: Tensor
) -> None:
    """Fill `out` with the gradient of the readers' z, (n, B, H, M, D) as dy and x."""
    shared.norm_weight[: len(x)].addcmul_(dy, x)
    shared.norm_bias[: len(x)].add_(dy)
    torch.mul(batches.project(dy * batches.norm_weight, x), r, out=out)


class InnerGradient:
    """The inner gradient of a group, computed again from x and r, and its own gradients."""

    def __init__(
        self,
        x: Tensor,
        r: Tensor,
        K: Tensor,
        v: Tensor,
        eta: Tensor,
        batches: MiniBatches,
        S: Tensor,
    ):
        """x, v (n, B, H, M, D); r, eta (n, B, H, M, 1); K = [k, 1]. S, shaped as x, is filled."""
        f = torch.addcmul(batches.norm_bias, x, batches.norm_weight).add_(K[..., :-1]).sub_(v)
        p = f * batches.norm_weight
        G = batches.project(p, x).mul_(r)
        torch.mul(G, eta, out=S)
        xp = p.mul_(x).mean(-1, keepdim=True)
        e = (xp * EPS).mul_(r**3)
        self.batches, self.dp_factor = batches, f.addcmul_(x, batches.norm_weight)
        self.dp, self.deta = empty_like(x, r)
        self.steps = list(steps(x, r, eta * r, xp, e, G, self.dp, self.deta))

    def backward(self, i: int, dS: Tensor, out: Tensor) -> None:
        """Fill `out` with the gradient of the writers' z in mini-batch i, (L, M, D) as dS."""
        x, r, eta_r, xp, e, G, dp, deta = self.steps[i]
        batches = self.batches
        torch.mul(batches.project(dS, x), eta_r, out=dp)
        dz = batches.project((batches.norm_weight_squared - xp).mul_(dp), x).mul_(r)
        x_dS = (x * dS).sum(-1, keepdim=True)
        torch.sum(G * dS, -1, keepdim=True, out=deta)
        by_x = deta.addcmul(e, x_dS).mul_(eta_r)
        dz.addcmul_(G, x_dS.mul_(eta_r), value=-1 / batches.D)
        torch.addcmul(dz, x, by_x, value=-1 / batches.D, out=out)

    def target_backward(self, shared: SharedGradients) -> Tensor:
        """The gradient of k - v, when all mini-batches are done."""
        dk = self.dp * self.batches.norm_weight
        shared.norm_weight[: len(dk)].addcmul_(self.dp, self.dp_factor)
        shared.norm_bias[: len(dk)].add_(dk)
        return dk
