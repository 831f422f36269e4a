"""TTT-Linear over whole mini-batches: the two loops, forward and back.

With Q = [q, 1], K = [k, 1], W = [W; b], t the token_scale, t_M its last element, and R what
reader i takes from writer j, R_ij = -t_i where j <= i, else 0, a mini-batch is
(arXiv 2407.04620, section 2.5)

    Z = K W,  S from it as in adjoint.py
    Zb = Q W + (R o A) S,  A = Q K^T          the readers' z
    W <- W - t_M K^T S

Derived here, dX being the adjoint of X, and dW that of the state after the mini-batch:

    N = dZb S^T,  dA = R o N                  dZb as in adjoint.py
    dS = (R o A)^T dZb - t_M K dW             and dZ from it, as in adjoint.py
    dq = dy + dZb W^T + dA K,  dk += dZ W^T - t_M S dW^T + dA^T Q
    dt_i -= sum_{j<=i} (A o N)_ij,  dt_M -= <S, K dW>
    dW <- dW + Q^T dZb + K^T dZ

No state is stored: the one before a mini-batch is W + t_M K^T S of the one after.

n mini-batches in a group, B batch, H heads, L = B H, M mini-batch size, D head dim.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .backward import InnerGradient, Shared
from .forward import Walk, add_product, augmented, empty_like, steps


def descend(
    Q: Tensor,
    K: Tensor,
    pull: Tensor,
    eta: Tensor,
    W: Tensor,
    walk: Walk,
    writers: list[tuple[Tensor, Tensor]] | None,
) -> Tensor:
    """Walk W (L, D + 1, D) through a group; returns Zb, lets `writers` have x and rstd of Z."""
    Zb, S = empty_like(pull, pull)
    (Z,) = empty_like(pull[0].flatten(0, 1))
    for Q_i, K_i, Kt_i, pull_i, eta_i, Zb_i, S_i in steps(Q, K, K.mT, pull, eta, Zb, S):
        torch.bmm(Q_i, W, out=Zb_i)
        torch.bmm(K_i, W, out=Z)
        G, x, rstd = walk.inner_gradient(Z, pull_i)
        W.baddbmm_(Kt_i, torch.mul(G, eta_i, out=S_i), alpha=-walk.last)
        if writers is not None:
            writers.append((x, rstd))
    return add_product(Zb, (Q @ K.mT).mul_(walk.reads), S)


class Ascent:
    """The walk back: W^T, since a product with a transposed W is the slower one, and dW."""

    def __init__(
        self, walk: Walk, shared: Shared, weights: Sequence[Tensor], grads: Sequence[Tensor]
    ):
        self.walk, self.shared = walk, shared
        self.Wt = weights[0].flatten(0, 1).mT.contiguous()
        self.dW = augmented(*grads)
        self.dstates = [self.dW]
        self.last = shared.through_step(walk.L, walk.M, walk.D)
        (self.KdW,) = empty_like(self.last)

    def rows(self, n: int) -> tuple[Tensor, Tensor]:
        """Room for dZb and S of a group; dZ is under dZb."""
        self.dz = self.walk.room(n, self.walk.D, 2 * self.walk.M)
        self.S = self.walk.room(n, self.walk.D)
        return self.dz[..., : self.walk.M, :], self.S

    def group(self, qk: Tensor, A: Tensor, inner: InnerGradient, dq: Tensor, dk: Tensor) -> Tensor:
        """Back through a group: fill dq and dk with what they get through states; returns dA."""
        walk, Wt, dW = self.walk, self.Wt, self.dW
        K, k = qk[..., walk.M :, :], qk[..., walk.M :, :-1]
        dZb, dZ = self.dz.split(walk.M, dim=-2)
        N = dZb @ self.S.mT
        self.shared.mix[: len(N)].addcmul_(A, N)
        dS = A.mul_(walk.reads).mT @ dZb
        group = list(steps(qk.mT, K, k, self.S, self.S.mT, dS, self.dz, dZb, dZ, dq, dk))
        for i in reversed(range(len(group))):
            qkt_i, K_i, k_i, S_i, St_i, dS_i, dz_i, dZb_i, dZ_i, dq_i, dk_i = group[i]
            torch.bmm(K_i, dW, out=self.KdW)
            self.last.addcmul_(S_i, self.KdW)
            inner.adjoint(i, dS_i.sub_(self.KdW, alpha=walk.last), out=dZ_i)
            Wt.baddbmm_(St_i, k_i, alpha=walk.last)
            torch.bmm(dZb_i, Wt, out=dq_i)
            torch.bmm(dZ_i, Wt, out=dk_i)
            dk_i.baddbmm_(S_i, dW[:, :-1].mT, alpha=-walk.last)
            dW.baddbmm_(qkt_i, dz_i)
        return N.mul_(walk.reads)
