"""Whole mini-batches, forward: the part that TTT-Linear and TTT-MLP have in common.

Only the products with a state depend on the mini-batch before. A Python loop, `forward_group` in
linear.py and mlp.py, computes these and their dependents; the rest is done for a group of
mini-batches at once. States are updated in place.

B batch, T tokens, H heads, D head dim, M mini-batch size, N whole mini-batches, n of them in a
group, L = B H. A group's tensors are (n, B, H, rows, features), in the loop (L, rows, features).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tttvideo.kernels.inner import EPS
from tttvideo.kernels.state import pairs

from .walk import KEEP, Ends, Gate


GROUP = 100_000
"""Floats in a group's q. On a CPU half of it costs 5 % of the time and a quarter 20 %, for calls;
twice of it gains nothing, and more memory is held at once."""

layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default


def forward(
    forward_group: Callable[..., Tensor],
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
    token_ranges: None,
    causal: bool,
    save: bool,
) -> list[Tensor]:
    """y, the weights after and, if `save`, the tape: x and rstd of writers and of readers, hidden,
    and [W; b] of every layer before every KEEP-th mini-batch but the first.

    q, k, v (B, T, H, D); eta (B, T, H); token_scale (M,); norm_weight, norm_bias (H, D).
    """
    batches = MiniBatches(q, token_scale, norm_weight, norm_bias, weights, causal)
    states = [augmented(W, b) for W, b in pairs(weights)]
    D, hidden_sizes = batches.D, batches.hidden
    sizes = (D, 1, D, 1, *hidden_sizes) if save else ()
    tape = [batches.empty(batches.N, size) for size in sizes]
    kept = [W.new_empty(batches.kept, *W.shape) for W in states] if save else []
    ends = Ends(states, batches.gate(log_keep, start), kept)
    (y,) = empty_like(q)
    q, k, v, eta, y_tiles = map(batches.split, (q, k, v, eta[..., None], y))
    eta = eta.contiguous()
    for g in batches.groups(0, batches.N):
        _, Q, K = batches.join(q[g], k[g], slice(len(q[g])))
        offset = (K[..., :-1] - v[g]).add_(batches.norm_bias).mul_(batches.norm_weight)
        hidden = [x[g] for x in tape[4:]] or [batches.empty(len(Q), E) for E in hidden_sizes]
        writers: list[tuple[Tensor, Tensor]] | None = [] if save else None
        Zb = forward_group(Q, K, offset, eta[g], *hidden, *states, batches, writers, ends, g.start)
        x, _, rstd = normalize(Zb)
        torch.add(torch.addcmul(batches.norm_bias, x, batches.norm_weight), q[g], out=y_tiles[g])
        if writers:
            record([buffer[g] for buffer in tape], writers, x, rstd)
    return [y, *(w for Wb in states for w in separated(Wb, batches.B)), *tape, *kept]


def like(q: Tensor, *others: Any) -> list[Tensor]:
    """Empty results of `forward`."""
    *_, token_scale, _, _, _, weights, _, _, _, save = others
    (B, T, H, D), M = q.shape, len(token_scale)
    hidden = [W.shape[-1] for W in weights[:-2:2]]
    tape: list[tuple[int, ...]] = [(T // M, B, H, M, size) for size in (D, 1, D, 1, *hidden)]
    kept = (kept_states(T // M), B * H)
    tape += [(*kept, W.shape[-2] + 1, W.shape[-1]) for W in weights[::2]]
    shapes = q.shape, *(w.shape for w in weights), *(tape if save else ())
    return [q.new_empty(shape) for shape in shapes]


def kept_states(N: int) -> int:
    """States that are kept for backward: before mini-batches KEEP, 2 KEEP, ... of N."""
    return (N - 1) // KEEP


def record(
    tape: list[Tensor], writers: list[tuple[Tensor, Tensor]], x_read: Tensor, rstd_read: Tensor
) -> None:
    """Copy x and rstd of a group's writers, mini-batch by mini-batch, and of its readers."""
    x, rstd = zip(*writers, strict=True)
    torch.cat(x, out=tape[0].view(-1, *tape[0].shape[-2:]))
    torch.cat(rstd, out=tape[1].view(-1, 1))
    tape[2].copy_(x_read)
    tape[3].copy_(rstd_read.view_as(tape[3]))


class MiniBatches:
    """Shared by all groups: sizes, the norm, the factors of reading and of the step."""

    def __init__(
        self,
        q: Tensor,
        token_scale: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        weights: Sequence[Tensor],
        causal: bool,
        gated: bool = False,
    ):
        """gated: for a backward through a forget gate, which takes groups together as spans."""
        self.causal = causal
        self.B, T, self.H, self.D = q.shape
        self.M = len(token_scale)
        self.N, self.L = T // self.M, self.B * self.H
        self.hidden = [W.shape[-1] for W in weights[:-2:2]]
        n = max(1, round(GROUP / (self.L * self.M * self.D)))
        self.n = n // KEEP * KEEP or 1 << (n.bit_length() - 1)
        if gated:
            self.n = min(self.n, KEEP)
        self.span = KEEP if gated else self.n
        self.kept = kept_states(self.N)
        self.last_scale = token_scale[-1].item()  # a number costs nothing as a product's factor
        self.reads = -torch.tril(token_scale[:, None].expand(self.M, self.M))  # (reader, writer)
        self.norm_weight, self.norm_bias = norm_weight[:, None], norm_bias[:, None]  # (H, 1, D)
        self.norm_weight_squared = self.norm_weight.square().repeat(self.B, 1, 1)  # (L, 1, D)
        self.qk = q.new_ones(min(self.span, self.N), self.B, self.H, 2 * self.M, self.D + 1)
        self.units: dict[int, tuple[Tensor, Tensor]] = {}

    def spans(self) -> list[list[slice]]:
        """All mini-batches, in groups; a span is one group, or enough of them for KEEP."""
        return [self.groups(i, min(i + self.span, self.N)) for i in range(0, self.N, self.span)]

    def groups(self, begin: int, end: int) -> list[slice]:
        return [slice(i, min(i + self.n, end)) for i in range(begin, end, self.n)]

    def split(self, x: Tensor) -> Tensor:
        """x (B, N M, H, features) as a view (N, B, H, M, features)."""
        return x.unflatten(1, (self.N, self.M)).permute(1, 0, 3, 2, 4)

    def empty(self, n: int, features: int, rows: int | None = None) -> Tensor:
        """n mini-batches of `rows` rows, by default M."""
        return self.qk.new_empty(n, self.B, self.H, rows or self.M, features)

    def gate(self, log_keep: Tensor | None, start: Sequence[Tensor]) -> Gate | None:
        if log_keep is None:
            return None
        return Gate(self.split(log_keep[..., None])[..., -1, 0], start, self.B)

    def join(self, q: Tensor, k: Tensor, place: slice) -> tuple[Tensor, Tensor, Tensor]:
        """[q, 1] above [k, 1] in one tensor, and each alone; the ones multiply b in [W; b].

        place: in a buffer, where it stays until the place is given again.
        """
        qk = self.qk[place]
        Q, K = qk.split(self.M, dim=-2)
        Q[..., :-1], K[..., :-1] = q, k
        return qk, Q, K

    def inner_gradient(self, z: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of the inner loss with respect to z (L, M, D), and x and rstd of z.

        offset is the part of it that does not depend on z, norm_weight (k + norm_bias - v).
        """
        x, mean, rstd = normalize(z)
        return (
            through_norm(torch.addcmul(offset, x, self.norm_weight_squared), z, mean, rstd),
            x,
            rstd,
        )

    def project(self, d: Tensor, x: Tensor) -> Tensor:
        """d - mean d - x mean(x d) by row: the gradient through x's norm, divided by rstd."""
        rows = x.numel() // x.shape[-1]
        if rows not in self.units:
            self.units[rows] = x.new_zeros(rows), x.new_ones(rows)
        return through_norm(d, x, *self.units[rows])


def normalize(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x = (z - mean) rstd by row, mean, rstd: layer_norm, with the faster kernel of group_norm."""
    rows, D = z.numel() // z.shape[-1], z.shape[-1]
    return torch.native_group_norm(z, None, None, rows, 1, D, 1, EPS)


def through_norm(d: Tensor, z: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """The gradient with respect to z, given d, the one with respect to z normalized."""
    return layer_norm_backward(d, z, z.shape[-1:], mean, rstd, None, None, (True, False, False))[0]


def steps(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors of a group, mini-batch by mini-batch; unbind costs less than n indexings."""
    return zip(*(x.flatten(1, 2).unbind() for x in tensors), strict=True)


def augmented(W: Tensor, b: Tensor) -> Tensor:
    """A copy [W; b], (L, in + 1, out)."""
    return torch.cat((W, b), dim=-2).flatten(0, 1)


def separated(Wb: Tensor, B: int) -> tuple[Tensor, Tensor]:
    """W (B, H, in, out) and b (B, H, 1, out) of [W; b]."""
    W, b = Wb.unflatten(0, (B, -1)).split((Wb.shape[1] - 1, 1), dim=-2)
    return W.clone(memory_format=torch.contiguous_format), b.clone()


def empty_like(*tensors: Tensor) -> list[Tensor]:
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in tensors]


def add_product(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """x += a @ b."""
    x.flatten(0, 2).baddbmm_(a.flatten(0, 2), b.flatten(0, 2))
    return x
