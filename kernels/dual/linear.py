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

Where whole frames are read, with V = W - t_M K^T S of their own mini-batch, Zb = Q V, no A, and

    dq = dy + dZb V^T,  dV = dW + Q^T dZb     before the writers look at dV in place of dW

walk.py finds W and V again, and has the forget gate, which follows.

n mini-batches in a group, B batch, H heads, L = B H, M mini-batch size, D head dim.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from tttvideo.kernels.operator import operator

from .backward import Group, SharedGradients, backward
from .forward import MiniBatches, add_product, empty_like, forward, like, steps
from .walk import Ends, Walk


def forward_group(
    Q: Tensor,
    K: Tensor,
    offset: Tensor,
    eta: Tensor,
    W: Tensor,
    batches: MiniBatches,
    writers: list[tuple[Tensor, Tensor]] | None,
    ends: Ends,
    first: int,
) -> Tensor:
    """Update W (L, D + 1, D) by a group; returns Zb and appends x and rstd of Z to `writers`."""
    Zb, S = empty_like(offset, offset)
    (Z,) = empty_like(offset[0].flatten(0, 1))
    group = enumerate(steps(Q, K, K.mT, offset, eta, Zb, S), first)
    for m, (Q_m, K_m, Kt_m, offset_m, eta_m, Zb_m, S_m) in group:
        if batches.causal:
            torch.bmm(Q_m, W, out=Zb_m)
        torch.bmm(K_m, W, out=Z)
        G, x, rstd = batches.inner_gradient(Z, offset_m)
        W.baddbmm_(Kt_m, torch.mul(G, eta_m, out=S_m), alpha=-batches.last_scale)
        if not batches.causal:
            torch.bmm(Q_m, W, out=Zb_m)
        ends(m)
        if writers is not None:
            writers.append((x, rstd))
    return add_product(Zb, (Q @ K.mT).mul_(batches.reads), S) if batches.causal else Zb


class BackwardLoop:
    """Through the weights, group by group; `dW` is updated."""

    def __init__(
        self,
        batches: MiniBatches,
        shared: SharedGradients,
        walks: Sequence[Walk],
        gradients: Sequence[Tensor],
    ):
        self.batches, self.shared = batches, shared
        (self.walk,), (self.dW,) = walks, gradients
        self.last = shared.step_sum(batches.L, batches.M, batches.D)
        (self.KdW,) = empty_like(self.last)

    def ahead(self, group: Group) -> None:
        for m, rows in group.numbered(group.K, group.S):
            self.walk.ahead(m, *rows)

    def backward(self, group: Group) -> None:
        """Fill dZ, and dq and dk without the output and the target."""
        if not self.batches.causal:
            return self.weights_backward(group, torch.empty_like(group.dq))
        Q, K = group.Q, group.K
        A, N = Q @ K.mT, group.dZb @ group.S.mT
        self.shared.mix[: len(N)].addcmul_(A, N)
        self.weights_backward(group, A.mul_(self.batches.reads).mT @ group.dZb)
        dA = N.mul_(self.batches.reads)
        add_product(group.dq, dA, K[..., :-1])
        add_product(group.dk, dA.mT, Q[..., :-1])

    def weights_backward(self, group: Group, dS: Tensor) -> None:
        """dS: its part through causal reads, where there are any; changed."""
        causal, scale, M, dW = self.batches.causal, self.batches.last_scale, self.batches.M, self.dW
        of_writers = slice(0 if causal else M, 2 * M)  # of those that are left at the end
        qk, dz = group.qk[..., of_writers, :].mT, group.dz[..., of_writers, :]
        tensors = group.Q.mT, group.K, group.S, dS, qk, dz, group.dZb, group.dZ, group.dq, group.dk
        for m, (Qt, K, S, dS_m, qk_m, dz_m, dZb, dZ, dq, dk) in reversed(group.numbered(*tensors)):
            self.walk.forget(m)
            if not causal:
                torch.bmm(dZb, self.walk.after(m)[:, : self.batches.D].mT, out=dq)
                dW.baddbmm_(Qt, dZb)
            torch.bmm(K, dW, out=self.KdW)
            self.last.addcmul_(S, self.KdW)
            if causal:
                dS_m.sub_(self.KdW, alpha=scale)
            else:
                torch.mul(self.KdW, -scale, out=dS_m)
            group.inner.backward(m - group.g.start, dS_m, out=dZ)
            Wt = self.walk.before(m, K, S)[:, : self.batches.D].mT
            if causal:
                torch.bmm(dZb, Wt, out=dq)
            torch.bmm(dZ, Wt, out=dk)
            dk.baddbmm_(S, dW[:, :-1].mT, alpha=-scale)
            dW.baddbmm_(qk_m, dz_m)


OPERATOR = operator(
    "dual_linear",
    partial(forward, forward_group),
    like,
    partial(backward, BackwardLoop, (True,)),
    open_rows=0,
)
