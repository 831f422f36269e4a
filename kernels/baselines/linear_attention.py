"""Linear attention (arXiv 2006.16236): a memory to which every token adds key times value.

    memory_t = memory_{t-1} + k_t^T v_t        y_t = q_t memory_t

A token reads after the last write of its frame; a frame of one token is the causal form, in which
a token reads its own write. `linear_attention` computes all chunks of tokens at once as matrix
products that autograd differentiates; `reference` is the specification.

B batch, H heads, T tokens, K features of a key, V features of a value, N chunks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


CHUNK = 64
"""Tokens of a chunk; as many as a head has features, so that both halves of the work are equal."""


def reference(
    q: Tensor, k: Tensor, v: Tensor, memory: Tensor, frame: int = 1
) -> tuple[Tensor, Tensor]:
    """One token after the other; arguments as in `linear_attention`."""
    ys = []
    for t in range(q.shape[2]):
        memory = memory + k[:, :, t, :, None] * v[:, :, t, None]
        if (t + 1) % frame == 0:
            ys.append(q[:, :, t + 1 - frame : t + 1] @ memory)
    return torch.cat(ys, dim=2), memory


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, memory: Tensor, frame: int = 1
) -> tuple[Tensor, Tensor]:
    """The outputs y (B, H, T, V), and the memory after the last token.

    q, k: (B, H, T, K); v: (B, H, T, V); memory: (B, H, K, V), all of one dtype. frame divides T.
    """
    T, size = q.shape[2], chunk_size(q.shape[2], frame)
    if size == T:
        return within(q, k, v, frame) + q @ memory, memory + k.mT @ v
    q, k, v = (chunks(x, size) for x in (q, k, v))
    sums = torch.cat((memory[:, :, None], k.mT @ v), dim=2).cumsum(dim=2)  # (B, H, N + 1, K, V)
    y = within(q, k, v, frame) + q @ sums[:, :, :-1]
    return y.flatten(2, 3)[:, :, :T], sums[:, :, -1]


def within(q: Tensor, k: Tensor, v: Tensor, frame: int) -> Tensor:
    """The outputs that come from the tokens of the same chunk."""
    scores = q @ k.mT
    if frame == 1:
        return torch.tril(scores) @ v
    return scores.masked_fill(later_frames(scores, frame), 0) @ v


def later_frames(scores: Tensor, frame: int) -> Tensor:
    """Where the key of scores (.., L, L) belongs to a later frame than the query, (L, L)."""
    frames = torch.arange(scores.shape[-1], device=scores.device) // frame
    return frames > frames[:, None]


def chunk_size(T: int, frame: int) -> int:
    """Tokens of a chunk: whole frames, as many as fit into CHUNK, or one."""
    return min(T, max(1, CHUNK // frame) * frame)


def chunks(x: Tensor, size: int) -> Tensor:
    """x (B, H, T, features) as (B, H, N, size, features), padded with zeros that write nothing."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % size)).unflatten(2, (-1, size))
