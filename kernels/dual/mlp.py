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

Where whole frames are read, V1 and V2 being the weights after the step of their own mini-batch,

    Z1b = Q V1,  Zb = Y V2,  dZ1b = gelu'(Z1b) o dZb V2^T,  dq = dy + dZ1b V1^T
    dV1 = dW1 + Q^T dZ1b,  dV2 = dW2 + Y^T dZb

before the writers look at dV in place of dW, and there are no A, N and R. walk.py finds weights
again, and has the forget gate, which follows.

n mini-batches in a group, B batch, H heads, L = B H, M mini-batch size, D head dim, E hidden.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import repeat

import torch
from torch import Tensor

from tttvideo.kernels.operator import operator

from .backward import Group, SharedGradients, backward
from .forward import MiniBatches, add_product, empty_like, forward, like, steps
from .walk import Ends, Walk


C0, C1 = 2 * math.sqrt(2 / math.pi), 0.044715
CURVATURE = 4 * C0
Writers = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # [X, 1], gelu'(Z1), its slope, U, S1
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
    ends: Ends,
    first: int,
) -> Tensor:
    """Update W1 (L, D + 1, E) and W2 (L, E + 1, D) by a group; returns Zb and fills Z1.

    x and rstd of Z2 are appended to `writers`.
    """
    causal, scale = batches.causal, batches.last_scale
    (Zb,) = empty_like(offset)
    mix = (Q @ K.mT).mul_(batches.reads) if causal else Q  # Q is not used as one
    X, Y = Z1.new_ones(2, batches.L, batches.M, Z1.shape[-1] + 1)
    group = enumerate(steps(Q, K, K.mT, offset, eta, mix, Z1, Zb), first)
    for m, (Q_m, K_m, Kt_m, offset_m, eta_m, mix_m, Z1_m, Zb_m) in group:
        (slope,) = gelu(torch.bmm(K_m, W1, out=Z1_m), X[..., :-1], order=1)
        G2, x, rstd = batches.inner_gradient(torch.bmm(X, W2), offset_m)
        S2 = G2.mul_(eta_m)
        S1 = torch.bmm(S2, W2[:, :-1].mT).mul_(slope)
        if causal:
            gelu(torch.bmm(Q_m, W1).baddbmm_(mix_m, S1), Y[..., :-1])
            torch.bmm(Y, W2, out=Zb_m)
            Zb_m.baddbmm_(torch.bmm(Y, X.mT).mul_(batches.reads), S2)
        W1.baddbmm_(Kt_m, S1, alpha=-scale)
        W2.baddbmm_(X.mT, S2, alpha=-scale)
        if not causal:
            gelu(torch.bmm(Q_m, W1), Y[..., :-1])
            torch.bmm(Y, W2, out=Zb_m)
        ends(m)
        if writers is not None:
            writers.append((x, rstd))
    return Zb


class BackwardLoop:
    """Through W1 and W2, group by group; dW1 and dW2 are updated."""

    def __init__(
        self,
        batches: MiniBatches,
        shared: SharedGradients,
        walks: Sequence[Walk],
        gradients: Sequence[Tensor],
    ):
        self.batches, self.shared, self.E = batches, shared, batches.hidden[0]
        (self.walk1, self.walk2), (self.dW1, self.dW2) = walks, gradients
        L, M, E = batches.L, batches.M, self.E
        self.dz1 = self.dW1.new_empty(L, 2 * M, E)  # dZ1b above dZ1
        self.hidden = self.dW1.new_ones(L, 3 * M, E + 1)  # [Y, 1], [X, 1], [dU, 0]
        self.hidden[:, 2 * M :, E] = 0
        self.last1 = shared.step_sum(L, M, batches.D + 1)
        self.last2 = shared.step_sum(L, M, batches.D)
        (self.XdW2,) = empty_like(self.last2)
        self.writers: dict[int, Writers] = {}  # of a span, by number of the mini-batch

    def ahead(self, group: Group) -> None:
        for m, (K, S2, Z1) in group.numbered(group.K, group.S, group.hidden[0]):
            X = Z1.new_ones(*Z1.shape[:-1], self.E + 1)
            slope, curve = gelu(Z1, X[..., :-1], order=2)
            U = torch.bmm(S2, self.walk2.before(m)[:, : self.E].mT)
            self.writers[m] = X, slope, curve, U, U * slope
            self.walk2.ahead(m, X, S2)
            self.walk1.ahead(m, K, self.writers[m][-1])

    def backward(self, group: Group) -> None:
        """Fill dZ2, and dq and dk without the output and the target."""
        tensors = group.qk, group.dz, group.hidden[0], group.dq, group.dk
        mixes = self.mixes(group) if self.batches.causal else []
        each: Iterable[tuple[Tensor, ...] | None] = steps(*mixes) if mixes else repeat(None)
        numbered = list(zip(group.numbered(*tensors), each, strict=False))
        for i, ((m, rows), mix) in reversed(list(enumerate(numbered))):
            self.step(m, rows, mix, partial(group.inner.backward, i))
        if mixes:
            self.mixes_backward(group, *mixes)

    def mixes(self, group: Group) -> list[Tensor]:
        """R o A1, A1 and dA2, and empty A2 and N1."""
        A1, reads = group.Q @ group.K.mT, self.batches.reads
        N2 = group.dZb @ group.S.mT
        return [A1 * reads, A1, N2, N2 * reads, *empty_like(A1, A1)]

    def mixes_backward(self, group: Group, *mixes: Tensor) -> None:
        _, A1, N2, _, A2, N1 = mixes
        self.shared.mix[: len(A1)].addcmul_(A1, N1).addcmul_(A2, N2)
        dA1 = N1.mul_(self.batches.reads)
        add_product(group.dq, dA1, group.K[..., :-1])
        add_product(group.dk, dA1.mT, group.Q[..., :-1])

    def step(
        self,
        m: int,
        rows: tuple[Tensor, ...],
        mixes: tuple[Tensor, ...] | None,
        inner_backward: Callable[..., None],
    ) -> None:
        """Backward of mini-batch m: its values again, its readers, its writers, the weights."""
        qk, dz2, Z1, dq, dk = rows
        M, E = self.batches.M, self.E
        (Q, K), (dZb, dZ2, S2) = qk.split(M, dim=1), dz2.split(M, dim=1)
        X1 = self.hidden[:, M : 2 * M]
        self.walk1.forget(m)
        self.walk2.forget(m)
        known = self.writers.pop(m, None)
        if known:
            X1.copy_(known[0])
            slope, curve, U, S1 = known[1:]
        else:
            slope, curve = gelu(Z1, X1[..., :-1], order=2)
        if not mixes:
            self.read_frame(Q, dZb, self.walk1.after(m), self.walk2.after(m), out=dq)
        W2t = self.walk2.before(m, X1, S2)[:, :E].mT
        if not known:
            U = torch.bmm(S2, W2t)
            S1 = U * slope
        W1 = self.walk1.before(m, K, S1)
        through = self.read(Q, dZb, S1, W1, W2t, mixes) if mixes else (None, None, None)
        self.write(K, dZ2, (S1, S2, U, slope, curve), W2t, through, inner_backward)

        own = slice(0 if mixes else M, None)  # readers of a frame are done
        through_W1 = torch.bmm(self.dz1[:, own], W1[:, :-1].mT)
        through_step = torch.bmm(S1, self.dW1.mT)
        torch.sub(through_W1[:, -M:], through_step[..., :-1], alpha=self.batches.last_scale, out=dk)
        if mixes:
            dq.copy_(through_W1[:, :M])
        self.last2.addcmul_(S2, self.XdW2)
        self.last1.addcmul_(K, through_step)
        self.dW1.baddbmm_(qk[:, own].mT, self.dz1[:, own])
        self.dW2.baddbmm_(self.hidden[:, own].mT, dz2[:, own])

    def read_frame(self, Q: Tensor, dZb: Tensor, W1: Tensor, W2: Tensor, out: Tensor) -> None:
        """The readers of a whole frame, through the weights after its step."""
        Y1 = self.hidden[:, : self.batches.M]
        (slope,) = gelu(torch.bmm(Q, W1), Y1[..., :-1], order=1)
        dZ1b = torch.bmm(dZb, W2[:, : self.E].mT).mul_(slope)
        torch.bmm(dZ1b, W1[:, :-1].mT, out=out)
        self.dW1.baddbmm_(Q.mT, dZ1b)
        self.dW2.baddbmm_(Y1.mT, dZb)

    def read(
        self, Q: Tensor, dZb: Tensor, S1: Tensor, W1: Tensor, W2t: Tensor, mixes: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """The readers: fills dZ1b, A2 and N1; returns their parts of dS1, dS2 and dX."""
        mix, _, _, dA2, A2, N1 = mixes
        Y1, X1, _ = self.hidden.split(self.batches.M, dim=1)
        dZ1b = self.dz1[:, : self.batches.M]
        (slope,) = gelu(torch.bmm(Q, W1).baddbmm_(mix, S1), Y1[..., :-1], order=1)
        torch.bmm(Y1, X1.mT, out=A2)
        torch.mul(torch.bmm(dZb, W2t).baddbmm_(dA2, X1[..., :-1]), slope, out=dZ1b)
        torch.bmm(dZ1b, S1.mT, out=N1)
        dS2 = torch.bmm((A2 * self.batches.reads).mT, dZb)
        return torch.bmm(mix.mT, dZ1b), dS2, torch.bmm(dA2.mT, Y1[..., :-1])

    def write(
        self,
        K: Tensor,
        dZ2: Tensor,
        values: tuple[Tensor, ...],
        W2t: Tensor,
        through: Sequence[Tensor | None],
        inner_backward: Callable[..., None],
    ) -> None:
        """The writers: fills dZ2, dZ1 and dU."""
        S1, S2, U, slope, curve = values
        scale, M = self.batches.last_scale, self.batches.M
        _, X1, dU = self.hidden.split(M, dim=1)
        dS1 = plus_product(through[0], K, self.dW1, -scale)
        torch.mul(dS1, slope, out=dU[..., :-1])
        torch.bmm(X1, self.dW2, out=self.XdW2)
        dS2 = plus_product(through[1], dU[..., :-1], W2t.mT)
        inner_backward(dS2.sub_(self.XdW2, alpha=scale), out=dZ2)
        dX = plus_product(through[2], dZ2, W2t)
        dX.baddbmm_(S2, self.dW2[:, :-1].mT, alpha=-scale)
        dZ1 = self.dz1[:, M:]
        torch.addcmul(dX.mul_(slope), curve, U.mul_(dS1), value=CURVATURE, out=dZ1)


def plus_product(x: Tensor | None, a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
    """x + scale a @ b, in place of x if there is one."""
    return torch.bmm(a, b).mul_(scale) if x is None else x.baddbmm_(a, b, alpha=scale)


OPERATOR = operator(
    "dual_mlp",
    partial(forward, forward_group),
    like,
    partial(backward, BackwardLoop, (False, True)),
    open_rows=0,
)
