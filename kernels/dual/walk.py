"""The fast weights around each mini-batch: what becomes of them, and how backward finds them again.

W is [W; b] of one inner layer, X its rows with a column of ones. A mini-batch ends with

    V = W - t_M X^T S             readers of whole frames see V
    W <- V + (1 - g) (W0 - V)     the forget gate, if there is one

Derived here, dW being the gradient of the weights after the gate and dV of those before it:

    dlog g = g <dW, V - W0>,  dW0 += (1 - g) dW,  dV = g dW

Forward keeps the weights before every KEEP-th mini-batch. Without a gate the others are found
backwards, W = V + t_M X^T S. Through a gate that would divide by g, and a rounding error would grow
by as much, so V - W0 is computed again forwards, for a span of mini-batches, from kept weights.

N mini-batches, L = B H, M mini-batch size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tttvideo.kernels.state import pairs


KEEP = 8
"""Mini-batches from one kept state to the next. Walked back in place over 2,048 of them (32,768
tokens, M 16), the states of TTT-MLP drift, and the gradient of eta is off by 3e-6 in float32."""


class Gate:
    """The forget gate of N mini-batches."""

    def __init__(self, log_keep: Tensor, start: Sequence[Tensor], B: int):
        """log_keep (N, B, H), start W0 (H, in, out) and b0 (H, 1, out) of each layer."""
        log_keep = log_keep.flatten(1)[..., None, None]
        self.keep, self.forget = log_keep.exp().unbind(), (-log_keep.expm1()).unbind()
        self.start = [torch.cat(layer, dim=-2).repeat(B, 1, 1) for layer in pairs(start)]


class Ends:
    """What happens to the states (L, in + 1, out), in place, when a mini-batch is over."""

    def __init__(self, states: Sequence[Tensor], gate: Gate | None, kept: Sequence[Tensor]):
        """kept: for each state a tensor to be filled with every KEEP-th, or nothing."""
        self.states, self.gate, self.kept = states, gate, kept

    def __call__(self, m: int) -> None:
        if self.gate:
            for W, W0 in zip(self.states, self.gate.start, strict=True):
                W.lerp_(W0, self.gate.forget[m])
        if (m + 1) % KEEP == 0:
            for buffer, W in zip(self.kept, self.states, strict=False):
                buffer[m // KEEP : m // KEEP + 1] = W  # empty where no mini-batch follows


class Walk:
    """One layer's weights from the last mini-batch to the first, in place."""

    def __init__(self, kept: Sequence[Tensor], after: Tensor, scale: float, transposed: bool):
        """kept: the weights before mini-batches 0, KEEP, ...; after: those after the last.

        transposed: hold W^T, without b, since products with a transposed W are slower.
        """
        self.kept, self.scale, self.transposed = kept, scale, transposed
        self.hold(after)

    def hold(self, W: Tensor) -> None:
        self.held = W[:, :-1].mT.contiguous() if self.transposed else W.clone()

    def after(self, m: int) -> Tensor:
        """The weights after the step of mini-batch m, once those before m + 1 were asked for."""
        return self.held.mT if self.transposed else self.held

    def ahead(self, m: int, X: Tensor, S: Tensor) -> None:
        """Find the weights after the step of mini-batch m; without a gate there is nothing to."""

    def before(self, m: int, *rows: Tensor) -> Tensor:
        """The weights before mini-batch m, once those after it were asked for; rows: X, S."""
        if m % KEEP == 0:
            self.hold(self.kept[m // KEEP])
            return self.after(m)
        X, S = rows
        if self.transposed:
            self.held.baddbmm_(S.mT, X[..., :-1], alpha=self.scale)
        else:
            self.held.baddbmm_(X.mT, S, alpha=self.scale)
        return self.after(m)

    def forget(self, m: int) -> None:
        """Nothing without a gate."""


class GatedWalk(Walk):
    """As Walk, through a gate: `ahead` finds the weights of a span, from its first on."""

    def __init__(
        self, kept: Sequence[Tensor], scale: float, gate: Gate, W0: Tensor, dW: Tensor, span: int
    ):
        """dW: the gradient of the weights, changed in place; span: a multiple of KEEP."""
        self.kept, self.scale, self.gate, self.W0, self.dW = kept, scale, gate, W0, dW
        self.moved = W0.new_empty(span, *W0.shape).unbind()  # V - W0
        self.W, self.product = torch.empty_like(W0), torch.empty_like(W0)
        self.dW0 = torch.zeros_like(W0)
        self.along = W0.new_empty(len(gate.keep), len(W0)).unbind()  # <dW, V - W0>

    def ahead(self, m: int, X: Tensor, S: Tensor) -> None:
        i = m % len(self.moved)
        if i == 0:
            torch.sub(self.kept[m // KEEP], self.W0, out=self.moved[i])
        else:
            torch.mul(self.moved[i - 1], self.gate.keep[m - 1], out=self.moved[i])
        self.moved[i].baddbmm_(X.mT, S, alpha=-self.scale)

    def after(self, m: int) -> Tensor:
        return torch.add(self.W0, self.moved[m % len(self.moved)], out=self.W)

    def before(self, m: int, *rows: Tensor) -> Tensor:
        i = m % len(self.moved)
        if i == 0:
            return self.kept[m // KEEP]
        return torch.addcmul(self.W0, self.moved[i - 1], self.gate.keep[m - 1], out=self.W)

    def forget(self, m: int) -> None:
        """Turn dW, of the weights after the gate, into dV."""
        torch.mul(self.dW, self.moved[m % len(self.moved)], out=self.product)
        torch.sum(self.product.flatten(1), dim=1, out=self.along[m])
        self.dW0.addcmul_(self.dW, self.gate.forget[m])
        self.dW.mul_(self.gate.keep[m])
