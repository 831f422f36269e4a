"""The plain peer of the dual form over whole mini-batches: a loop that autograd differentiates.

It was kernels/dual.py's own path until the Functions of dual_linear.py and dual_mlp.py beat it, and
stays as what they are compared with: same arguments, same results, any inner depth.

B batch, T tokens, H heads, D head dim, M mini-batch size, N whole mini-batches, T = N M.
"""

import torch
from einops import rearrange
from torch import Tensor

from tttvideo.kernels import State
from tttvideo.kernels.dual import interleave, read, scaled_gradient, step
from tttvideo.kernels.inner import Norm


def whole(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm: Norm,
    state: State,
) -> tuple[Tensor, State]:
    """N whole mini-batches from a state with none open: q (B, T, H, D) and so on, as in ops.py."""
    M, B = len(token_scale), len(q)
    q, k, v, eta = (
        rearrange(x, "b (n m) h d -> n (b h) m d", m=M) for x in (q, k, v, eta[..., None])
    )
    norm = tuple(n.repeat(B, 1)[:, None] for n in norm)  # (B H, 1, D)
    weights = tuple(w.flatten(0, 1) for w in state.weights)
    starts, rows = [], []
    # unbind, because an indexed tensor's gradient is as long as the tensor: T^2 work in backward
    for k_n, v_n, eta_n in zip(k.unbind(), v.unbind(), eta.unbind(), strict=True):
        starts.append(weights)
        rows.append(interleave(*scaled_gradient(k_n, v_n, eta_n, weights, norm)))
        weights = step(weights, rows[-1], token_scale[-1])
    y = read(q, stack(starts), stack(rows), token_scale[:, None], norm)
    state = State(tuple(w.unflatten(0, (B, -1)) for w in weights))
    return rearrange(y, "n (b h) m d -> b (n m) h d", b=B), state


def stack(tuples: list[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.stack(column) for column in zip(*tuples, strict=True)]
