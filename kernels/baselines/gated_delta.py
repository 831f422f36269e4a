"""The gated delta rule (arXiv 2412.06464): a memory that forgets, and corrects what a key returns.

    memory <- a_t memory        memory_t = memory + b_t k_t^T (v_t - k_t memory)        y = q memory

a_t in (0, 1] is what is kept, b_t in [0, 1] the step. A token reads after the last write of its
frame; a frame of one token is the causal form. `gated_delta` computes chunks as matrix products
that autograd differentiates. All u_t = b_t (v_t - k_t memory) of a chunk solve one triangular
system, since each depends on the earlier ones through products of keys (the WY representation).
Only the memory passes from chunk to chunk. `reference` is the specification.

B batch, H heads, T tokens, K features of a key, V features of a value, N chunks, L tokens of one.
"""

import torch
from torch import Tensor

from .linear_attention import chunk_size, chunks, later_frames


def reference(
    q: Tensor, k: Tensor, v: Tensor, log_keep: Tensor, rate: Tensor, memory: Tensor, frame: int = 1
) -> tuple[Tensor, Tensor]:
    """One token after the other; arguments as in `gated_delta`."""
    ys = []
    for t in range(q.shape[2]):
        memory = log_keep[:, :, t, None, None].exp() * memory
        error = v[:, :, t, None] - k[:, :, t, None] @ memory  # (B, H, 1, V)
        memory = memory + rate[:, :, t, None, None] * k[:, :, t, :, None] * error
        if (t + 1) % frame == 0:
            ys.append(q[:, :, t + 1 - frame : t + 1] @ memory)
    return torch.cat(ys, dim=2), memory


def gated_delta(
    q: Tensor, k: Tensor, v: Tensor, log_keep: Tensor, rate: Tensor, memory: Tensor, frame: int = 1
) -> tuple[Tensor, Tensor]:
    """The outputs y (B, H, T, V), and the memory after the last token.

    q, k: (B, H, T, K), k of length at most 1; v: (B, H, T, V); log_keep, rate: (B, H, T), the
    logarithm of a and b; memory: (B, H, K, V), all of one dtype. frame divides T.
    """
    T, size = q.shape[2], chunk_size(q.shape[2], frame)
    q, k, v = (chunks(x, size) for x in (q, k, v))  # (B, H, N, L, features)
    log_keep, rate = (chunks(x[..., None], size) for x in (log_keep, rate))
    sums = log_keep.cumsum(3)  # (B, H, N, L, 1)
    ends = sums[..., frame - 1 :: frame, :].repeat_interleave(frame, dim=3)  # of each token's frame
    written, read = solve(k, v, sums, rate)
    mix = q @ k.mT * decays(ends, sums, frame)
    q, k, kept = q * ends.exp(), k * (sums[..., -1:, :] - sums).exp(), sums[..., -1:, :].exp()
    ys = []
    for n in range(q.shape[2]):
        u = written[:, :, n] - read[:, :, n] @ memory  # (B, H, L, V)
        ys.append(q[:, :, n] @ memory + mix[:, :, n] @ u)
        memory = kept[:, :, n] * memory + k[:, :, n].mT @ u
    return torch.cat(ys, dim=2)[:, :, :T], memory


def solve(k: Tensor, v: Tensor, sums: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    """written (.., L, V) and read (.., L, K) such that u = written - read memory.

    u_t = b_t (v_t - exp(sums_t) k_t memory - sum_{s<t} exp(sums_t - sums_s) (k_t . k_s) u_s)
    """
    system = rate * (k @ k.mT) * decays(sums, sums)  # its diagonal is taken as 1
    right = rate * torch.cat((v, sums.exp() * k), dim=-1)
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    return solved[..., : v.shape[-1]], solved[..., v.shape[-1] :]


def decays(reads: Tensor, writes: Tensor, frame: int = 1) -> Tensor:
    """exp(reads_t - writes_s) (.., L, L), where s is not of a later frame; else 0."""
    spans = reads - writes.mT
    return spans.masked_fill(later_frames(spans, frame), -torch.inf).exp()
