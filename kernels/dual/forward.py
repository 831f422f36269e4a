"""A walk over whole mini-batches, forward: what TTT-Linear and TTT-MLP have in common.

Only the products with a state wait for one another, so the Python loop, `descend` in dual_linear.py
and dual_mlp.py, holds these and what hangs on them; the rest is done for a group of mini-batches at
once. States are walked in place.

B batch, T tokens, H heads, D head dim, M mini-batch size, N whole mini-batches, n of them in a
group, L = B H. A group's tensors are (n, B, H, rows, features), in the loop (L, rows, features).
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from tttvideo.kernels.inner import EPS
from tttvideo.kernels.state import pairs


GROUP = 100_000
"""Floats in a group's widest tensor. On a CPU half of it costs 5 % of the time and a quarter 20 %,
for calls; twice of it gains nothing, and the memory that is held at once grows with it."""

layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default


def forward(
    descend: Callable[..., Tensor],
    operands: Sequence[Tensor],
    weights: Sequence[Tensor],
    tape: list[Tensor] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """y and the weights after; on `tape`, if there is one, what adjoint.backward starts from.

    operands: q, k, v (B, T, H, D); eta (B, T, H); token_scale (M,); gain and shift, the inner
    norm's weight and bias, (H, D).
    """
    q, k, v, eta, token_scale, gain, shift = operands
    walk = Walk(q, token_scale, gain, shift, weights)
    states = [augmented(W, b) for W, b in pairs(weights)]
    if tape is not None:
        tape += [walk.room(walk.N, size) for size in (walk.D, 1, walk.D, 1, *walk.hidden)]
    (y,) = empty_like(q)
    q, k, v, eta, y_tiles = map(walk.tiles, (q, k, v, eta[..., None], y))
    eta = eta.contiguous()
    for g in walk.groups():
        _, Q, K = walk.load(q[g], k[g])
        pull = (K[..., :-1] - v[g]).add_(walk.shift).mul_(walk.gain)
        hidden = [x[g] for x in tape[4:]] if tape else [walk.room(len(Q), E) for E in walk.hidden]
        writers = [] if tape else None
        Zb = descend(Q, K, pull, eta[g], *hidden, *states, walk, writers)
        x, _, rstd = normalize(Zb)
        torch.add(torch.addcmul(walk.shift, x, walk.gain), q[g], out=y_tiles[g])
        if tape:
            keep([room[g] for room in tape], writers, x, rstd)
    return y, [w for Wb in states for w in parted(Wb, walk.B)]


def keep(
    rooms: list[Tensor], writers: list[tuple[Tensor, Tensor]], x_read: Tensor, r_read: Tensor
) -> None:
    """Write down a group: x and rstd of its writers, mini-batch by mini-batch, and readers."""
    x, r = zip(*writers, strict=True)
    torch.cat(x, out=rooms[0].view(-1, *rooms[0].shape[-2:]))
    torch.cat(r, out=rooms[1].view(-1, 1))
    rooms[2].copy_(x_read)
    rooms[3].copy_(r_read.view_as(rooms[3]))


class Walk:
    """What all groups share: sizes, the norm, the factors of reading and of the step."""

    def __init__(
        self,
        q: Tensor,
        token_scale: Tensor,
        gain: Tensor,
        shift: Tensor,
        weights: Sequence[Tensor],
    ):
        self.B, T, self.H, self.D = q.shape
        self.M = len(token_scale)
        self.N, self.L = T // self.M, self.B * self.H
        self.hidden = [W.shape[-1] for W in weights[:-2:2]]
        size = self.L * self.M * max([self.D, *self.hidden])
        self.n = min(max(1, round(GROUP / size)), self.N)
        self.last = token_scale[-1].item()  # a number is free as the factor of a product
        self.reads = -torch.tril(token_scale[:, None].expand(self.M, self.M))  # (reader, writer)
        self.gain, self.shift = gain[:, None], shift[:, None]  # (H, 1, D)
        self.gain2 = self.gain.square().repeat(self.B, 1, 1)  # (L, 1, D)
        self.qk = q.new_ones(self.n, self.B, self.H, 2 * self.M, self.D + 1)
        self.units: dict[int, tuple[Tensor, Tensor]] = {}

    def groups(self) -> list[slice]:
        return [slice(i, min(i + self.n, self.N)) for i in range(0, self.N, self.n)]

    def tiles(self, x: Tensor) -> Tensor:
        """x (B, N M, H, features) as a view (N, B, H, M, features)."""
        return x.unflatten(1, (self.N, self.M)).permute(1, 0, 3, 2, 4)

    def room(self, n: int, features: int, rows: int | None = None) -> Tensor:
        """Room for n mini-batches, of M rows unless told otherwise."""
        return self.qk.new_empty(n, self.B, self.H, rows or self.M, features)

    def load(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[q, 1] above [k, 1] in one tensor, and each alone: thanks to the ones W holds its b."""
        qk = self.qk[: len(q)]
        Q, K = qk.split(self.M, dim=-2)
        Q[..., :-1], K[..., :-1] = q, k
        return qk, Q, K

    def inner_gradient(self, z: Tensor, pull: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of the inner loss with respect to z (L, M, D), and x and rstd of z.

        pull is the part of it that no state changes, gain (k + shift - v).
        """
        x, mean, rstd = normalize(z)
        return through_norm(torch.addcmul(pull, x, self.gain2), z, mean, rstd), x, rstd

    def project(self, d: Tensor, x: Tensor) -> Tensor:
        """d - mean d - x mean(x d) by row: through the norm that x came from, but for its rstd."""
        rows = x.numel() // x.shape[-1]
        if rows not in self.units:
            self.units[rows] = x.new_zeros(rows), x.new_ones(rows)
        return through_norm(d, x, *self.units[rows])


def normalize(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x = (z - mean) rstd by row, mean, rstd: layer_norm, by the faster kernel of group_norm."""
    rows, D = z.numel() // z.shape[-1], z.shape[-1]
    return torch.native_group_norm(z, None, None, rows, 1, D, 1, EPS)


def through_norm(d: Tensor, z: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """The gradient with respect to z, when d is the one with respect to z normalized."""
    return layer_norm_backward(d, z, z.shape[-1:], mean, rstd, None, None, (True, False, False))[0]


def steps(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors of a group, mini-batch by mini-batch; unbind costs less than n indexings."""
    return zip(*(x.flatten(1, 2).unbind() for x in tensors), strict=True)


def augmented(W: Tensor, b: Tensor) -> Tensor:
    """A copy [W; b], (L, in + 1, out)."""
    return torch.cat((W, b), dim=-2).flatten(0, 1)


def parted(Wb: Tensor, B: int) -> tuple[Tensor, Tensor]:
    """W (B, H, in, out) and b (B, H, 1, out) of [W; b]."""
    W, b = Wb.unflatten(0, (B, -1)).split((Wb.shape[1] - 1, 1), dim=-2)
    return W.clone(memory_format=torch.contiguous_format), b.clone()


def empty_like(*tensors: Tensor) -> list[Tensor]:
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in tensors]


def add_product(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """x += a @ b."""
    x.flatten(0, 2).baddbmm_(a.flatten(0, 2), b.flatten(0, 2))
    return x
