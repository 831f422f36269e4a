"""Linear attention (arXiv 2006.16236): a memory to which every token adds key times value.

    memory_t = memory_{t-1} + k_t^T v_t        y_t = q_t memory_t

A token reads its own write. `linear_attention` computes all chunks of tokens at once as matrix
products that autograd differentiates; `reference` is the specification.

B batch, H heads, T tokens, K features of a key, V features of a value, N chunks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


CHUNK = 64
"""Tokens of a chunk; as many as a head has features, so that both halves of the work are equal."""


def reference(q: Tensor, k: Tensor, v: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """One token after the other; arguments as in `linear_attention`."""
    ys = []
    for t in range(q.shape[2]):
        memory = memory + k[:, :, t, :, None] * v[:, :, t, None]
        ys.append((q[:, :, t, None] @ memory)[:, :, 0])
    return torch.stack(ys, dim=2), memory


def linear_attention(q: Tensor, k: Tensor, v: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs y (B, H, T, V), and the memory after the last token.

    q, k: (B, H, T, K); v: (B, H, T, V); memory: (B, H, K, V), all of one dtype.
    """
    T = q.shape[2]
    if T <= CHUNK:
        return within(q, k, v) + q @ memory, memory + k.mT @ v
    q, k, v = (chunks(x) for x in (q, k, v))
    sums = torch.cat((memory[:, :, None], k.mT @ v), dim=2).cumsum(dim=2)  # (B, H, N + 1, K, V)
    y = within(q, k, v) + q @ sums[:, :, :-1]
    return y.flatten(2, 3)[:, :, :T], sums[:, :, -1]


def within(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The outputs that come from the tokens of the same chunk."""
    return torch.tril(q @ k.mT) @ v


def chunks(x: Tensor) -> Tensor:
    """x (B, H, T, features) as (B, H, N, CHUNK, features), padded with zeros that write nothing."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % CHUNK)).unflatten(2, (-1, CHUNK))
