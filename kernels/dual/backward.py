"""The walk back, with all gradients: what TTT-Linear and TTT-MLP have in common.

z is a row of the last layer's output, x = (z - mean) r, r = (var z + eps)^-1/2, and P projects,
P d = d - mean d - x mean(x d). With the norm's weight g and bias s (arXiv 2407.04620, section 2)

    y = q + s + g x                                                     at a reader
    S = eta G,  G = dloss/dz = r P p,  p = g f,  f = k + s + g x - v    at a writer

P is symmetric, and so is the loss's Hessian. Derived here, dX being the adjoint of X:

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

from .forward import Walk, add_product, empty_like, parted, steps


def backward(
    Ascent: Callable,
    grads: Sequence[Tensor],
    operands: Sequence[Tensor],
    weights: Sequence[Tensor],
    tape: Sequence[Tensor],
) -> list[Tensor]:
    """The gradients of walk.forward's operands and weights, given those of its results.

    weights and tape are what walk.forward gave.
    """
    q, k, v, eta, token_scale, gain, shift = operands
    walk = Walk(q, token_scale, gain, shift, weights)
    shared = Shared(walk)
    ascent = Ascent(walk, shared, weights, grads[1:])
    results = empty_like(q, k, v, eta)
    dq, dk, dv, deta = map(walk.tiles, (*results[:3], results[3][..., None]))
    q, k, v, eta, dy = map(walk.tiles, (q, k, v, eta[..., None], grads[0]))
    eta = eta.contiguous()
    for g in reversed(walk.groups()):
        x, r, x_read, r_read, *hidden = (room[g] for room in tape)
        qk, Q, K = walk.load(q[g], k[g])
        dy_g = dy[g].contiguous()
        dZb, S = ascent.rows(len(x))
        through_output(dy_g, x_read, r_read, walk, shared, out=dZb)
        inner = InnerGradient(x, r, K, v[g], eta[g], walk, S)
        dq_g, dk_g = empty_like(x, x)
        dA = ascent.group(qk, Q @ K.mT, *hidden, inner, dq_g, dk_g)
        through_target = inner.through_target(shared)
        torch.add(add_product(dq_g, dA, K[..., :-1]), dy_g, out=dq[g])
        torch.add(add_product(dk_g, dA.mT, Q[..., :-1]), through_target, out=dk[g])
        torch.neg(through_target, out=dv[g])
        deta[g] = inner.deta
    return [*results, *shared.results(), *(w for dW in ascent.dstates for w in parted(dW, walk.B))]


class Shared:
    """Gradients of what all tokens share, added up by element and reduced once, at the end."""

    def __init__(self, walk: Walk):
        self.mix = walk.room(walk.n, walk.M).zero_()  # of token_scale, as readers use it
        self.last: list[Tensor] = []  # of its last element, as the step uses it
        self.gain, self.shift = (walk.room(walk.n, walk.D).zero_() for _ in "gs")

    def through_step(self, *shape: int) -> Tensor:
        """A sum that is to be taken from the gradient of token_scale's last element."""
        self.last.append(self.mix.new_zeros(shape))
        return self.last[-1]

    def results(self) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of token_scale (M,), gain and shift (H, D)."""
        token_scale = -torch.tril(self.mix.sum((0, 1, 2))).sum(-1)
        token_scale[-1] -= sum(x.sum() for x in self.last)
        return token_scale, self.gain.sum((0, 1, 3)), self.shift.sum((0, 1, 3))


def through_output(
    dy: Tensor, x: Tensor, r: Tensor, walk: Walk, shared: Shared, out: Tensor
) -> None:
    """Fill `out` with the adjoint of the readers' z, (n, B, H, M, D) as dy and x."""
    shared.gain[: len(x)].addcmul_(dy, x)
    shared.shift[: len(x)].add_(dy)
    torch.mul(walk.project(dy * walk.gain, x), r, out=out)


class InnerGradient:
    """The inner gradient of a group, again from x and r, and its adjoint by mini-batch."""

    def __init__(
        self, x: Tensor, r: Tensor, K: Tensor, v: Tensor, eta: Tensor, walk: Walk, S: Tensor
    ):
        """x, v (n, B, H, M, D); r, eta (n, B, H, M, 1); K = [k, 1]. S, shaped as x, is filled."""
        f = torch.addcmul(walk.shift, x, walk.gain).add_(K[..., :-1]).sub_(v)
        p = f * walk.gain
        G = walk.project(p, x).mul_(r)
        torch.mul(G, eta, out=S)
        xp = p.mul_(x).mean(-1, keepdim=True)
        e = (xp * EPS).mul_(r**3)
        self.walk, self.p_by_gain = walk, f.addcmul_(x, walk.gain)
        self.dp, self.deta = empty_like(x, r)
        self.steps = list(steps(x, r, eta * r, xp, e, G, self.dp, self.deta))

    def adjoint(self, i: int, dS: Tensor, out: Tensor) -> None:
        """Fill `out` with the adjoint of the writers' z in mini-batch i, (L, M, D) as dS."""
        x, r, eta_r, xp, e, G, dp, deta = self.steps[i]
        walk = self.walk
        torch.mul(walk.project(dS, x), eta_r, out=dp)
        dz = walk.project((walk.gain2 - xp).mul_(dp), x).mul_(r)
        x_dS = (x * dS).sum(-1, keepdim=True)
        torch.sum(G * dS, -1, keepdim=True, out=deta)
        by_x = deta.addcmul(e, x_dS).mul_(eta_r)
        dz.addcmul_(G, x_dS.mul_(eta_r), value=-1 / walk.D)
        torch.addcmul(dz, x, by_x, value=-1 / walk.D, out=out)

    def through_target(self, shared: Shared) -> Tensor:
        """What the target v - k gives to k, and -1 times to v, when all mini-batches are done."""
        dk = self.dp * self.walk.gain
        shared.gain[: len(dk)].addcmul_(self.dp, self.p_by_gain)
        shared.shift[: len(dk)].add_(dk)
        return dk
