"""TTT-MLP over whole mini-batches: the two loops, forward and back.

As in dual_linear.py, Q = [q, 1], K = [k, 1], and R_ij = -t_i where reader i takes from writer j.
X and Y, hidden rows of the writers and the readers, have a column of ones too where they meet W2
or each other. With U = S2 W2^T a mini-batch is (arXiv 2407.04620, section 2.5)

    Z1 = K W1,  X = gelu(Z1),  Z2 = X W2,  S2 from it as in adjoint.py,  S1 = gelu'(Z1) o U
    Z1b = Q W1 + (R o A1) S1,  A1 = Q K^T,  Y = gelu(Z1b)
    Zb = Y W2 + (R o A2) S2,  A2 = Y X^T      the readers' z
    W1 <- W1 - t_M K^T S1,  W2 <- W2 - t_M X^T S2

Derived here, dX being the adjoint of X, and dW that of the state after the mini-batch:

    N2 = dZb S2^T,  dA2 = R o N2              dZb as in adjoint.py
    dY = dZb W2^T + dA2 X,  dZ1b = gelu'(Z1b) o dY,  N1 = dZ1b S1^T,  dA1 = R o N1
    dS1 = (R o A1)^T dZ1b - t_M K dW1,  dU = gelu'(Z1) o dS1
    dS2 = (R o A2)^T dZb - t_M X dW2 + dU W2  and dZ2 from it, as in adjoint.py
    dX = dA2^T Y + dZ2 W2^T - t_M S2 dW2^T,  dZ1 = gelu'(Z1) o dX + gelu''(Z1) o U o dS1
    dq = dy + dZ1b W1^T + dA1 K,  dk += dZ1 W1^T - t_M S1 dW1^T + dA1^T Q
    dt_i -= sum_{j<=i} (A1 o N1 + A2 o N2)_ij,  dt_M -= <S1 dW1^T, K> + <S2, X dW2>
    dW1 <- dW1 + Q^T dZ1b + K^T dZ1,  dW2 <- dW2 + Y^T dZb + X^T dZ2 + dU^T S2

No state is stored: those before a mini-batch are W1 + t_M K^T S1 and W2 + t_M X^T S2.

n mini-batches in a group, B batch, H heads, L = B H, M mini-batch size, D head dim, E hidden.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .backward import InnerGradient, Shared
from .forward import Walk, augmented, empty_like, steps


C0, C1 = 2 * math.sqrt(2 / math.pi), 0.044715
CURVATURE = 4 * C0
sigmoid_backward = torch.ops.aten.sigmoid_backward.default


def gelu(z: Tensor, out: Tensor, order: int = 0) -> list[Tensor]:
    """Fill `out` with tanh-GELU, return derivatives up to `order`, the second over CURVATURE.

    It is z sigmoid(w), w = C0 (z + C1 z^3). One sigmoid serves all three; on a CPU F.gelu alone
    takes longer.
    """
    square = z * z
    w = torch.addcmul(z, square, z, value=C1)  # here and below over C0
    gate = torch.mul(w, C0).sigmoid_()
    torch.mul(z, gate, out=out)
    if order == 0:
        return []
    bump = sigmoid_backward(torch.lerp(z, w, 3.0, out=w), gate)  # z w' = 3 w - 2 z
    slope = torch.add(gate, bump, alpha=C0)
    if order == 1:
        return [slope]
    rise = torch.rsub(square, 1.0, alpha=-3 * C1)  # w'
    bend = torch.addcmul(bump, bump, gate, value=-2, out=square)
    curve = sigmoid_backward(torch.sub(rise, 0.5, out=w), gate)
    return [slope, curve.addcmul_(rise, bend, value=C0 / 4)]


def descend(
    Q: Tensor,
    K: Tensor,
    pull: Tensor,
    eta: Tensor,
    Z1: Tensor,
    W1: Tensor,
    W2: Tensor,
    walk: Walk,
    writers: list[tuple[Tensor, Tensor]] | None,
) -> Tensor:
    """Walk W1 (L, D + 1, E) and W2 (L, E + 1, D) through a group; returns Zb and fills Z1.

    `writers` may have x and rstd of Z2.
    """
    (Zb,) = empty_like(pull)
    mix = (Q @ K.mT).mul_(walk.reads)
    X, Y = Z1.new_ones(2, walk.L, walk.M, Z1.shape[-1] + 1)
    group = steps(Q, K, K.mT, pull, eta, mix, Z1, Zb)
    for Q_i, K_i, Kt_i, pull_i, eta_i, mix_i, Z1_i, Zb_i in group:
        (slope,) = gelu(torch.bmm(K_i, W1, out=Z1_i), X[..., :-1], order=1)
        G2, x, rstd = walk.inner_gradient(torch.bmm(X, W2), pull_i)
        S2 = G2.mul_(eta_i)
        S1 = torch.bmm(S2, W2[:, :-1].mT).mul_(slope)
        gelu(torch.bmm(Q_i, W1).baddbmm_(mix_i, S1), Y[..., :-1])
        torch.bmm(Y, W2, out=Zb_i)
        Zb_i.baddbmm_(torch.bmm(Y, X.mT).mul_(walk.reads), S2)
        W1.baddbmm_(Kt_i, S1, alpha=-walk.last)
        W2.baddbmm_(X.mT, S2, alpha=-walk.last)
        if writers is not None:
            writers.append((x, rstd))
    return Zb


class Ascent:
    """The walk back: W1, W2^T (most products want it transposed), dW1, dW2, and room for rows."""

    def __init__(
        self, walk: Walk, shared: Shared, weights: Sequence[Tensor], grads: Sequence[Tensor]
    ):
        self.walk, self.shared = walk, shared
        W1, b1, W2, _ = weights
        self.W1, self.W2t = augmented(W1, b1), W2.flatten(0, 1).mT.contiguous()
        self.dW1, self.dW2 = self.dstates = augmented(*grads[:2]), augmented(*grads[2:])
        E = W1.shape[-1]
        self.dz1 = W1.new_empty(walk.L, 2 * walk.M, E)  # dZ1b above dZ1
        self.hidden = W1.new_ones(walk.L, 3 * walk.M, E + 1)  # [Y, 1], [X, 1], [dU, 0]
        self.hidden[:, 2 * walk.M :, E] = 0
        self.last1 = shared.through_step(walk.L, walk.M, walk.D + 1)
        self.last2 = shared.through_step(walk.L, walk.M, walk.D)
        (self.XdW2,) = empty_like(self.last2)

    def rows(self, n: int) -> tuple[Tensor, Tensor]:
        """Room for dZb and S2 of a group; dZ2 is between them."""
        self.dz2 = self.walk.room(n, self.walk.D, 3 * self.walk.M)
        return self.dz2[..., : self.walk.M, :], self.dz2[..., -self.walk.M :, :]

    def group(
        self, qk: Tensor, A1: Tensor, Z1: Tensor, inner: InnerGradient, dq: Tensor, dk: Tensor
    ) -> Tensor:
        """Back through a group: fill dq and dk with what they get through states; returns dA1."""
        walk, shared = self.walk, self.shared
        Q, K = qk.split(walk.M, dim=-2)
        dZb, dZ2, S2 = self.dz2.split(walk.M, dim=-2)
        mix, N2 = A1 * walk.reads, dZb @ S2.mT
        dA2 = N2 * walk.reads
        A2, N1 = empty_like(A1, A1)
        group = steps(qk, Q, K, self.dz2, dZb, dZ2, S2, Z1, mix, dA2, A2, N1, dq, dk)
        for i, tensors in reversed(list(enumerate(group))):
            self.step(i, tensors, inner)
        shared.mix[: len(A1)].addcmul_(A1, N1).addcmul_(A2, N2)
        return N1.mul_(walk.reads)

    def step(self, i: int, tensors: tuple[Tensor, ...], inner: InnerGradient) -> None:
        """Back through mini-batch i: what it was, its readers, its writers, the states."""
        qk, Q, K, dz2, dZb, dZ2, S2, Z1, mix, dA2, A2, N1, dq, dk = tensors
        last, M, W1, W2t = self.walk.last, self.walk.M, self.W1, self.W2t
        dZ1b, dZ1 = self.dz1.split(M, dim=1)
        Y1, X1, dU0 = self.hidden.split(M, dim=1)
        Y, X, dU = Y1[..., :-1], X1[..., :-1], dU0[..., :-1]

        slope, curve = gelu(Z1, X, order=2)
        W2t.baddbmm_(S2.mT, X, alpha=last)
        U = torch.bmm(S2, W2t)
        S1 = U * slope
        W1.baddbmm_(K.mT, S1, alpha=last)
        (slope_read,) = gelu(torch.bmm(Q, W1).baddbmm_(mix, S1), Y, order=1)
        torch.bmm(Y1, X1.mT, out=A2)

        torch.mul(torch.bmm(dZb, W2t).baddbmm_(dA2, X), slope_read, out=dZ1b)
        torch.bmm(dZ1b, S1.mT, out=N1)
        dS1 = torch.bmm(mix.mT, dZ1b).baddbmm_(K, self.dW1, alpha=-last)
        torch.mul(dS1, slope, out=dU)
        torch.bmm(X1, self.dW2, out=self.XdW2)
        dS2 = torch.bmm((A2 * self.walk.reads).mT, dZb).baddbmm_(dU, W2t.mT)
        inner.adjoint(i, dS2.sub_(self.XdW2, alpha=last), out=dZ2)

        dX = torch.bmm(dA2.mT, Y).baddbmm_(dZ2, W2t)
        dX.baddbmm_(S2, self.dW2[:, :-1].mT, alpha=-last)
        torch.addcmul(dX.mul_(slope), curve, U.mul_(dS1), value=CURVATURE, out=dZ1)
        through_W1 = torch.bmm(self.dz1, W1[:, :-1].mT)
        through_step = torch.bmm(S1, self.dW1.mT)
        dq.copy_(through_W1[:, :M])
        torch.sub(through_W1[:, M:], through_step[..., :-1], alpha=last, out=dk)

        self.last2.addcmul_(S2, self.XdW2)
        self.last1.addcmul_(K, through_step)
        self.dW1.baddbmm_(qk.mT, self.dz1)
        self.dW2.baddbmm_(self.hidden.mT, dz2)
