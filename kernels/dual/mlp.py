"""TTT-MLP over whole mini-batches: the two loops, forward and back.

As in linear.py, Q = [q, 1], K = [k, 1], and R_ij = -t_i where reader i reads writer j.
X and Y, hidden rows of the writers and the readers, have a column of ones too where they meet W2
or each other. With U = S2 W2^T a mini-batch is (arXiv 2407.04620, section 2.5)

    Z1 = K W1,  X = gelu(Z1),  Z2 = X W2,  S2 from it as in backward.py,  S1 = gelu'(Z1) o U
    Z1b = Q W1 + (R o A1) S1,  A1 = Q K^T,  Y = gelu(Z1b)
    Zb = Y W2 + (R o A2) S2,  A2 = Y X^T      the readers' z
    W1 <- W1 - t_M K^T S1,  W2 <- W2 - t_M X^T S2

Derived here, dX being the gradient of X, and dW that of the state after the mini-batch:

    N2 = dZb S2^T,  dA2 = R o N2              dZb as in backward.py
    dY = dZb W2^T + dA2 X,  dZ1b = gelu'(Z1b) o dY,  N1 = dZ1b S1^T,  dA1 = R o N1
    dS1 = (R o A1)^T dZ1b - t_M K dW1,  dU = gelu'(Z1) o dS1
    dS2 = (R o A2)^T dZb - t_M X dW2 + dU W2  and dZ2 from it, as in backward.py
    dX = dA2^T Y + dZ2 W2^T - t_M S2 dW2^T,  dZ1 = gelu'(Z1) o dX + gelu''(Z1) o U o dS1
    dq = dy + dZ1b W1^T + dA1 K,  dk += dZ1 W1^T - t_M S1 dW1^T + dA1^T Q
    dt_i -= sum_{j<=i} (A1 o N1 + A2 o N2)_ij,  dt_M -= <S1 dW1^T, K> + <S2, X dW2>
    dW1 <- dW1 + Q^T dZ1b + K^T dZ1,  dW2 <- dW2 + Y^T dZb + X^T dZ2 + dU^T S2

No state is stored: those before a mini-batch are W1 + t_M K^T S1 and W2 + t_M X^T S2.

n mini-batches in a group, B batch, H heads, L = B H, M mini-batch size, D head dim, E hidden.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from tttvideo.kernels.operator import operator

from .backward import InnerGradient, SharedGradients, backward
from .forward import MiniBatches, augmented, empty_like, forward, like, steps


C0, C1 = 2 * math.sqrt(2 / math.pi), 0.044715
CURVATURE = 4 * C0
sigmoid_backward = torch.ops.aten.sigmoid_backward.default


def gelu(z: Tensor, out: Tensor, order: int = 0) -> list[Tensor]:
    """Fill `out` with tanh-GELU, return derivatives up to `order`, the second over CURVATURE.

    It is z sigmoid(w), w = C0 (z + C1 z^3). One sigmoid gives all three; on a CPU F.gelu alone
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


def forward_group(
    Q: Tensor,
    K: Tensor,
    offset: Tensor,
    eta: Tensor,
    Z1: Tensor,
    W1: Tensor,
    W2: Tensor,
    batches: MiniBatches,
    writers: list[tuple[Tensor, Tensor]] | None,
) -> Tensor:
    """Update W1 (L, D + 1, E) and W2 (L, E + 1, D) by a group; returns Zb and fills Z1.

    x and rstd of Z2 are appended to `writers`.
    """
    (Zb,) = empty_like(offset)
    mix = (Q @ K.mT).mul_(batches.reads)
    X, Y = Z1.new_ones(2, batches.L, batches.M, Z1.shape[-1] + 1)
    group = steps(Q, K, K.mT, offset, eta, mix, Z1, Zb)
    for Q_i, K_i, Kt_i, offset_i, eta_i, mix_i, Z1_i, Zb_i in group:
        (slope,) = gelu(torch.bmm(K_i, W1, out=Z1_i), X[..., :-1], order=1)
        G2, x, rstd = batches.inner_gradient(torch.bmm(X, W2), offset_i)
        S2 = G2.mul_(eta_i)
        S1 = torch.bmm(S2, W2[:, :-1].mT).mul_(slope)
        gelu(torch.bmm(Q_i, W1).baddbmm_(mix_i, S1), Y[..., :-1])
        torch.bmm(Y, W2, out=Zb_i)
        Zb_i.baddbmm_(torch.bmm(Y, X.mT).mul_(batches.reads), S2)
        W1.baddbmm_(Kt_i, S1, alpha=-batches.last_scale)
        W2.baddbmm_(X.mT, S2, alpha=-batches.last_scale)
        if writers is not None:
            writers.append((x, rstd))
    return Zb


class BackwardState:
    """W1, W2^T (most products need it transposed), dW1 and dW2, updated by group."""

    def __init__(
        self,
        batches: MiniBatches,
        shared: SharedGradients,
        weights: Sequence[Tensor],
        grads: Sequence[Tensor],
    ):
        self.batches, self.shared = batches, shared
        W1, b1, W2, _ = weights
        self.W1, self.W2t = augmented(W1, b1), W2.flatten(0, 1).mT.contiguous()
        self.dW1, self.dW2 = self.gradients = augmented(*grads[:2]), augmented(*grads[2:])
        E = W1.shape[-1]
        self.dz1 = W1.new_empty(batches.L, 2 * batches.M, E)  # dZ1b above dZ1
        self.hidden = W1.new_ones(batches.L, 3 * batches.M, E + 1)  # [Y, 1], [X, 1], [dU, 0]
        self.hidden[:, 2 * batches.M :, E] = 0
        self.last1 = shared.step_sum(batches.L, batches.M, batches.D + 1)
        self.last2 = shared.step_sum(batches.L, batches.M, batches.D)
        (self.XdW2,) = empty_like(self.last2)

    def allocate(self, n: int) -> tuple[Tensor, Tensor]:
        """Empty dZb and S2 of a group; dZ2 is between them."""
        self.dz2 = self.batches.empty(n, self.batches.D, 3 * self.batches.M)
        return self.dz2[..., : self.batches.M, :], self.dz2[..., -self.batches.M :, :]

    def backward_group(
        self, qk: Tensor, A1: Tensor, Z1: Tensor, inner: InnerGradient, dq: Tensor, dk: Tensor
    ) -> Tensor:
        """Fill dq and dk with their gradients through states; returns dA1."""
        batches, shared = self.batches, self.shared
        Q, K = qk.split(batches.M, dim=-2)
        dZb, dZ2, S2 = self.dz2.split(batches.M, dim=-2)
        mix, N2 = A1 * batches.reads, dZb @ S2.mT
        dA2 = N2 * batches.reads
        A2, N1 = empty_like(A1, A1)
        group = steps(qk, Q, K, self.dz2, dZb, dZ2, S2, Z1, mix, dA2, A2, N1, dq, dk)
        for i, tensors in reversed(list(enumerate(group))):
            self.step(i, tensors, inner)
        shared.mix[: len(A1)].addcmul_(A1, N1).addcmul_(A2, N2)
        return N1.mul_(batches.reads)

    def step(self, i: int, tensors: tuple[Tensor, ...], inner: InnerGradient) -> None:
        """Backward of mini-batch i: its values again, its readers, its writers, the states."""
        qk, Q, K, dz2, dZb, dZ2, S2, Z1, mix, dA2, A2, N1, dq, dk = tensors
        last, M, W1, W2t = self.batches.last_scale, self.batches.M, self.W1, self.W2t
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
        dS2 = torch.bmm((A2 * self.batches.reads).mT, dZb).baddbmm_(dU, W2t.mT)
        inner.backward(i, dS2.sub_(self.XdW2, alpha=last), out=dZ2)

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


OPERATOR = operator(
    "dual_mlp",
    partial(forward, forward_group),
    like,
    partial(backward, BackwardState),
    open_rows=0,
)
