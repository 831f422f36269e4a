"""Whole mini-batches, backward: the part that TTT-Linear and TTT-MLP have in common.

z is a row of the last layer's output, x = (z - mean) r, r = (var z + eps)^-1/2, and P projects,
P d = d - mean d - x mean(x d). With the norm's weight g and bias s (arXiv 2407.04620, section 2)

    y = q + s + g x                                                     at a reader
    S = eta G,  G = dloss/dz = r P p,  p = g f,  f = k + s + g x - v    at a writer

P is symmetric, and so is the loss's Hessian. Derived here, dX being the gradient of X:

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
from tttvideo.kernels.state import pairs

from .forward import MiniBatches, augmented, empty_like, separated, steps
from .walk import Gate, GatedWalk, Walk


def backward(
    BackwardLoop: Callable,
    transposed: Sequence[bool],
    grads: Sequence[Tensor],
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
    results: Sequence[Tensor],
    token_ranges: None,
    causal: bool,
) -> list[Tensor]:
    """Gradients of forward's inputs, gate and weights, given those of y and of the weights after.

    transposed: of each layer, whether its weights are held so. results: forward's, without y.
    """
    depth = len(weights) // 2
    after, tape = results[: 2 * depth], results[2 * depth :]
    gated = log_keep is not None
    batches = MiniBatches(q, token_scale, norm_weight, norm_bias, weights, causal, gated)
    gate, shared = batches.gate(log_keep, start), SharedGradients(batches)
    dstates = [augmented(*layer) for layer in pairs(grads[1:])]
    first = (augmented(*layer) for layer in pairs(weights))
    kept = [[W, *later.unbind()] for W, later in zip(first, tape[-depth:], strict=True)]
    walks = make_walks(kept, after, gate, dstates, transposed, batches)
    loop = BackwardLoop(batches, shared, walks, dstates)
    found = empty_like(q, k, v, eta)
    tokens = [*map(batches.split, (q, k, v, eta[..., None], grads[0]))]
    tokens[3] = tokens[3].contiguous()
    into = [*map(batches.split, (*found[:3], found[3][..., None]))]
    for span in reversed(batches.spans()):
        groups = [Group(g, tokens, tape[:-depth], batches, shared) for g in span]
        for group in groups if gate else ():
            loop.ahead(group)
        for group in reversed(groups):
            loop.backward(group)
            group.store(into, shared)
    dweights = [w for dW in dstates for w in separated(dW, batches.B)]
    dgate = gate_gradients(walks, gate, batches, eta) if gate else ([], [])
    return [*found, *shared.results(), *dgate[0], *dweights, *dgate[1]]


def make_walks(
    kept: Sequence[Sequence[Tensor]],
    after: Sequence[Tensor],
    gate: Gate | None,
    dstates: Sequence[Tensor],
    transposed: Sequence[bool],
    batches: MiniBatches,
) -> list[Walk]:
    """The walk through the weights of each layer."""
    scale = batches.last_scale
    if gate:
        gated = zip(kept, gate.start, dstates, strict=True)
        return [GatedWalk(own, scale, gate, W0, dW, batches.span) for own, W0, dW in gated]
    ends = (augmented(*layer) for layer in pairs(after))
    layers = zip(kept, ends, transposed, strict=True)
    return [Walk(own, end, scale, across) for own, end, across in layers]


def gate_gradients(
    walks: Sequence[Walk], gate: Gate, batches: MiniBatches, eta: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """The gradients of log_keep, alone in a list, and of the start, W0 and b0 of each layer."""
    dlog_keep = torch.zeros_like(eta)  # of the same shape
    gated = [walk for walk in walks if isinstance(walk, GatedWalk)]
    along = torch.stack([torch.stack(walk.along) for walk in gated]).sum(0)
    along *= torch.stack(gate.keep)[..., 0, 0]
    batches.split(dlog_keep[..., None])[..., -1, 0] = along.unflatten(1, (batches.B, -1))
    dstart = [separated(walk.dW0, batches.B) for walk in gated]
    return [dlog_keep], [w.sum(0) for layer in dstart for w in layer]


class SharedGradients:
    """Gradients of token_scale and the norm, summed by element and reduced once, at the end."""

    def __init__(self, batches: MiniBatches):
        self.mix = batches.empty(batches.n, batches.M).zero_()  # of token_scale, where tokens read
        self.last: list[Tensor] = []  # of its last element, in the step
        self.norm_weight, self.norm_bias = (
            batches.empty(batches.n, batches.D).zero_() for _ in range(2)
        )

    def step_sum(self, *shape: int) -> Tensor:
        """A new sum, to be subtracted from the gradient of token_scale's last element."""
        self.last.append(self.mix.new_zeros(shape))
        return self.last[-1]

    def results(self) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of token_scale (M,), norm_weight and norm_bias (H, D)."""
        token_scale = -torch.tril(self.mix.sum((0, 1, 2))).sum(-1)
        token_scale[-1] -= sum(x.sum() for x in self.last)
        return token_scale, self.norm_weight.sum((0, 1, 3)), self.norm_bias.sum((0, 1, 3))


def output_backward(
    dy: Tensor, x: Tensor, r: Tensor, batches: MiniBatches, shared: SharedGradients, out: Tensor
) -> None:
    """Fill `out` with the gradient of the readers' z, (n, B, H, M, D) as dy and x."""
    shared.norm_weight[: len(x)].addcmul_(dy, x)
    shared.norm_bias[: len(x)].add_(dy)
    torch.mul(batches.project(dy * batches.norm_weight, x), r, out=out)


class InnerGradient:
    """The inner gradient of a group, computed again from x and r, and its own gradients."""

    def __init__(
        self,
        x: Tensor,
        r: Tensor,
        K: Tensor,
        v: Tensor,
        eta: Tensor,
        batches: MiniBatches,
        S: Tensor,
    ):
        """x, v (n, B, H, M, D); r, eta (n, B, H, M, 1); K = [k, 1]. S, shaped as x, is filled."""
        f = torch.addcmul(batches.norm_bias, x, batches.norm_weight).add_(K[..., :-1]).sub_(v)
        p = f * batches.norm_weight
        G = batches.project(p, x).mul_(r)
        torch.mul(G, eta, out=S)
        xp = p.mul_(x).mean(-1, keepdim=True)
        e = (xp * EPS).mul_(r**3)
        self.batches, self.dp_factor = batches, f.addcmul_(x, batches.norm_weight)
        self.dp, self.deta = empty_like(x, r)
        self.steps = list(steps(x, r, eta * r, xp, e, G, self.dp, self.deta))

    def backward(self, i: int, dS: Tensor, out: Tensor) -> None:
        """Fill `out` with the gradient of the writers' z in mini-batch i, (L, M, D) as dS."""
        x, r, eta_r, xp, e, G, dp, deta = self.steps[i]
        batches = self.batches
        torch.mul(batches.project(dS, x), eta_r, out=dp)
        dz = batches.project((batches.norm_weight_squared - xp).mul_(dp), x).mul_(r)
        x_dS = (x * dS).sum(-1, keepdim=True)
        torch.sum(G * dS, -1, keepdim=True, out=deta)
        by_x = deta.addcmul(e, x_dS).mul_(eta_r)
        dz.addcmul_(G, x_dS.mul_(eta_r), value=-1 / batches.D)
        torch.addcmul(dz, x, by_x, value=-1 / batches.D, out=out)

    def target_backward(self, shared: SharedGradients) -> Tensor:
        """The gradient of k - v, when all mini-batches are done."""
        dk = self.dp * self.batches.norm_weight
        shared.norm_weight[: len(dk)].addcmul_(self.dp, self.dp_factor)
        shared.norm_bias[: len(dk)].add_(dk)
        return dk


class Group:
    """The rows of a group of mini-batches, and those of their gradients that need no weights.

    qk: [q, 1] above [k, 1], Q and K. dz: dZb of the readers above dZ of the writers, to be filled,
    above S.
    """

    def __init__(
        self,
        g: slice,
        tokens: Sequence[Tensor],
        tape: Sequence[Tensor],
        batches: MiniBatches,
        shared: SharedGradients,
    ):
        q, k, v, eta, dy = (x[g] for x in tokens)
        x, r, x_read, r_read, *self.hidden = (saved[g] for saved in tape)
        self.g, self.batches = g, batches
        place = g.start % batches.span
        self.qk, self.Q, self.K = batches.join(q, k, slice(place, place + len(q)))
        self.dz = batches.empty(len(x), batches.D, 3 * batches.M)
        self.dZb, self.dZ, self.S = self.dz.split(batches.M, dim=-2)
        self.dy = dy.contiguous()
        output_backward(self.dy, x_read, r_read, batches, shared, out=self.dZb)
        self.inner = InnerGradient(x, r, self.K, v, eta, batches, self.S)
        self.dq, self.dk = empty_like(x, x)

    def numbered(self, *tensors: Tensor) -> list[tuple[int, tuple[Tensor, ...]]]:
        """The mini-batches' numbers, and their parts of these tensors."""
        return list(enumerate(steps(*tensors), self.g.start))

    def store(self, into: Sequence[Tensor], shared: SharedGradients) -> None:
        """Fill the group's part of the gradients of q, k, v and eta, (N, B, H, M, .)."""
        dq, dk, dv, deta = (x[self.g] for x in into)
        dtarget = self.inner.target_backward(shared)
        torch.add(self.dq, self.dy, out=dq)
        torch.add(self.dk, dtarget, out=dk)
        torch.neg(dtarget, out=dv)
        deta.copy_(self.inner.deta)
