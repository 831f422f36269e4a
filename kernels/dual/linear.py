"""TTT-Linear over whole mini-batches: the two loops, forward and back.

With Q = [q, 1], K = [k, 1], W = [W; b], t the token_scale, t_M its last element, and R_ij the
factor of reader i for writer j, -t_i where j <= i, else 0, a mini-batch is (arXiv 2407.04620,
section 2.5)

    Z = K W,  S from it as in backward.py
    Zb = Q W + (R o A) S,  A = Q K^T          the readers' z
    W <- W - t_M K^T S

Derived here, dX being the gradient of X, and dW that of the state after the mini-batch:

    N = dZb S^T,  dA = R o N                  dZb as in backward.py
    dS = (R o A)^T dZb - t_M K dW             and dZ from it, as in backward.py
    dq = dy + dZb W^T + dA K,  dk += dZ W^T - t_M S dW^T + dA^T Q
    dt_i -= sum_{j<=i} (A o N)_ij,  dt_M -= <S, K dW>
    dW <- dW + Q^T dZb + K^T dZ

No state is stored: the one before a mini-batch is W + t_M K^T S of the one after.

n mini-batches in a group, B batch, H heads, L = B H, M mini-batch size, D head dim.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from tttvideo.kernels.operator import operator

from .backward import InnerGradient, SharedGradients, backward
from .forward import MiniBatches, add_product, augmented, empty_like, forward, like, steps


def forward_group(
    Q: Tensor,
    K: Tensor,
    offset: Tensor,
    eta: Tensor,
    W: Tensor,
    batches: MiniBatches,
    writers: list[tuple[Tensor, Tensor]] | None,
) -> Tensor:
    """Update W (L, D + 1, D) by a group; returns Zb and appends x and rstd of Z to `writers`."""
    Zb, S = empty_like(offset, offset)
    (Z,) = empty_like(offset[0].flatten(0, 1))
    for Q_i, K_i, Kt_i, offset_i, eta_i, Zb_i, S_i in steps(Q, K, K.mT, offset, eta, Zb, S):
        torch.bmm(Q_i, W, out=Zb_i)
        torch.bmm(K_i, W, out=Z)
        G, x, rstd = batches.inner_gradient(Z, offset_i)
        W.baddbmm_(Kt_i, torch.mul(G, eta_i, out=S_i), alpha=-batches.last_scale)
        if writers is not None:
            writers.append((x, rstd))
    return add_product(Zb, (Q @ K.mT).mul_(batches.reads), S)


class BackwardState:
    """W^T, since a product with a transposed W is slower, and dW, updated by group."""

    def __init__(
        self,
        batches: MiniBatches,
        shared: SharedGradients,
        weights: Sequence[Tensor],
        grads: Sequence[Tensor],
    ):
        self.batches, self.shared = batches, shared
        self.Wt = weights[0].flatten(0, 1).mT.contiguous()
        self.dW = augmented(*grads)
        self.gradients = [self.dW]
        self.last = shared.step_sum(batches.L, batches.M, batches.D)
        (self.KdW,) = empty_like(self.last)

    def allocate(self, n: int) -> tuple[Tensor, Tensor]:
        """Empty dZb and S of a group; dZ is below dZb."""
        self.dz = self.batches.empty(n, self.batches.D, 2 * self.batches.M)
        self.S = self.batches.empty(n, self.batches.D)
        return self.dz[..., : self.batches.M, :], self.S

    def backward_group(
        self, qk: Tensor, A: Tensor, inner: InnerGradient, dq: Tensor, dk: Tensor
    ) -> Tensor:
        """Fill dq and dk with their gradients through states; returns dA."""
        batches, Wt, dW = self.batches, self.Wt, self.dW
        K, k = qk[..., batches.M :, :], qk[..., batches.M :, :-1]
        dZb, dZ = self.dz.split(batches.M, dim=-2)
        N = dZb @ self.S.mT
        self.shared.mix[: len(N)].addcmul_(A, N)
        dS = A.mul_(batches.reads).mT @ dZb
        group = list(steps(qk.mT, K, k, self.S, self.S.mT, dS, self.dz, dZb, dZ, dq, dk))
        for i in reversed(range(len(group))):
            qkt_i, K_i, k_i, S_i, St_i, dS_i, dz_i, dZb_i, dZ_i, dq_i, dk_i = group[i]
            torch.bmm(K_i, dW, out=self.KdW)
            self.last.addcmul_(S_i, self.KdW)
            inner.backward(i, dS_i.sub_(self.KdW, alpha=batches.last_scale), out=dZ_i)
            Wt.baddbmm_(St_i, k_i, alpha=batches.last_scale)
            torch.bmm(dZb_i, Wt, out=dq_i)
            torch.bmm(dZ_i, Wt, out=dk_i)
            dk_i.baddbmm_(S_i, dW[:, :-1].mT, alpha=-batches.last_scale)
            dW.baddbmm_(qkt_i, dz_i)
        return N.mul_(batches.reads)


OPERATOR = operator(
    "dual_linear",
    partial(forward, forward_group),
    like,
    partial(backward, BackwardState),
    open_rows=0,
)
