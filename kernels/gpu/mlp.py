"""TTT-MLP over whole sequences on a GPU: forward, and a backward in three kernels.

Which kernels there are, and why, is said in triton_mlp_kernels.py; here is how they are launched.

S sequences, H heads, D head dim, E hidden units, M mini-batch size, N mini-batches in all.
"""

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from .mlp_kernels import (
    keys_kernel,
    readers_kernel,
    resident_chain_kernel,
    resident_kernel,
    streamed_chain_kernel,
    streamed_kernel,
)
from .shared import arch


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    gain: Tensor,
    shift: Tensor,
    weights: Sequence[Tensor],
    spans: Tensor | None,
    save: bool,
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
    """y, the weights after, the open rows X, S1 and S2, and what `backward` wants.

    q, k, v (B, T, H, D); eta (B, T, H); token_scale (M,); gain, shift (H, D); weights (S, H, ...);
    spans (S, 2), first token and last plus one of sequences packed into B = 1, or None.
    """
    H, D, M, E = *q.shape[2:], len(token_scale), weights[0].shape[-1]
    S, packed = len(weights[0]), spans is not None
    y = room_for(q, packed)
    N = mini_batches(q, M, S, packed) if save else S
    copies = tuple(w.new_empty(N, *w.shape[1:], dtype=q.dtype) for w in weights[::2])
    biases = tuple(b.new_empty(N if save else 0, *b.shape[1:]) for b in weights[1::2])
    rows = tuple(weights[0].new_zeros(S, H, M, features) for features in (E, E, D))
    after = tuple(torch.empty_like(w) for w in weights)
    spans = spans if packed else whole_spans(q)
    first = first_mini_batches(spans, M)
    kernel, chosen = walk_options(D, M, q.itemsize)
    kernel[(S * H,)](
        (q, k, v, eta), strides(q, k, v, eta, packed=packed), y, *strides(y, packed=packed),
        token_scale, (gain, shift), tuple(weights), after, rows, (*copies, *biases), spans, first,
        H, D, E, M, SAVE=save, **chosen,
    )  # fmt: skip
    return y, after, rows, (first, *copies, *biases) if save else ()


def saved_like(q: Tensor, weights: Sequence[Tensor], M: int, packed: bool) -> list[Tensor]:
    """What `forward` saves, empty: where mini-batches begin, and the weights at each of them."""
    N = mini_batches(q, M, len(weights[0]), packed)
    dtypes = q.dtype, weights[1].dtype
    order = (0, 2, 1, 3)  # copies of W1 and W2, then b1 and b2
    copies = [weights[i].new_empty(N, *weights[i].shape[1:], dtype=dtypes[i % 2]) for i in order]
    return [q.new_empty(len(weights[0]), dtype=torch.int64), *copies]


def backward(
    dy: Tensor,
    dweights: Sequence[Tensor],
    dopen: Sequence[Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    gain: Tensor,
    shift: Tensor,
    weights: Sequence[Tensor],
    new: Sequence[Tensor],
    saved: Sequence[Tensor],
    spans: Tensor | None,
) -> tuple[Tensor, ...]:
    """Gradients of q, k, v, eta, token_scale, gain, shift and of the weights before, a tuple.

    dy, dweights, dopen: those of forward's y, new weights and open rows.
    """
    first, copies = saved[0], tuple(saved[1:])
    H, D, M, E = *q.shape[2:], len(token_scale), copies[0].shape[-1]
    S, N, packed = len(first), len(copies[0]), spans is not None
    spans = spans if packed else whole_spans(q)
    starts = mini_batch_starts(spans, first, N, M)
    dq, dk, dv, deta = (room_for(x, packed) for x in (q, k, v, eta))
    dweights = tuple(w.clone() for w in dweights)
    hidden = q.new_empty(N, H, 8, E, M)
    rounded = q.new_empty(N, H, 2, D, M)
    exact = gain.new_empty(N, H, 3, D, M)
    dscale, dnorm = gain.new_zeros(N, H, M), gain.new_zeros(N, H, 2, D)
    dlast, dnorm_inner = gain.new_empty(S, H), gain.new_empty(S, H, 2, D)
    inputs = (q, k, v, eta), strides(q, k, v, eta, packed=packed)
    readers_kernel[(N * H,)](
        *inputs, dy, *strides(dy, packed=packed), dq, *strides(dq, packed=packed), token_scale,
        (gain, shift), copies, tuple(dopen), spans, starts, hidden, rounded, exact, dscale, dnorm,
        H, D, E, M, **readers_options(D, M, q.itemsize),
    )  # fmt: skip
    kernel, chosen = chain_options(D, M, q.itemsize)
    kernel[(S * H,)](
        *inputs, dv, *strides(dv, packed=packed), deta, *strides(deta, packed=packed), token_scale,
        (gain, shift), copies, dweights, spans, first, hidden, rounded, exact, dlast, dnorm_inner,
        H, D, E, M, **chosen,
    )  # fmt: skip
    keys_kernel[(N * H,)](
        hidden, exact, copies, spans, starts, dk, *strides(dk, packed=packed), H,
        D, E, M, **options(4, HS=128),
    )  # fmt: skip
    dtoken_scale = dscale.sum((0, 1))
    dtoken_scale[-1] += dlast.sum()
    dgain, dshift = (x.clone() for x in (dnorm.sum(0) + dnorm_inner.sum(0)).unbind(1))
    return dq, dk, dv, deta, dtoken_scale, dgain, dshift, dweights


def room_for(x: Tensor, packed: bool) -> Tensor:
    """Room for a result; tokens of packed sequences that no span covers keep zeros."""
    return x.new_zeros(x.shape) if packed else x.new_empty(x.shape)


def strides(*tensors: Tensor, packed: bool) -> tuple[tuple[int, ...], ...]:
    """Strides by sequence, token, head, feature; packed sequences lie in the same row of tokens."""
    return tuple((0, *x.stride()[1:]) if packed else x.stride() for x in tensors)


def whole_spans(q: Tensor) -> Tensor:
    """spans (S, 2) of sequences that are not packed: all of their tokens."""
    spans = q.new_zeros(len(q), 2, dtype=torch.int32)
    spans[:, 1] = q.shape[1]
    return spans


def mini_batches(q: Tensor, M: int, S: int, packed: bool) -> int:
    """Room enough for those of all sequences, without a look at spans on the device."""
    T = q.shape[1]
    return T // M + S if packed else S * triton.cdiv(T, M)


def first_mini_batches(spans: Tensor, M: int) -> Tensor:
    """The number of each sequence's first mini-batch, (S,), where those of all are counted."""
    counts = (spans[:, 1] - spans[:, 0] + M - 1) // M
    return counts.cumsum(0) - counts


def mini_batch_starts(spans: Tensor, first: Tensor, N: int, M: int) -> Tensor:
    """Sequence and first token of N mini-batches, (N, 2); the first token of one too many is past
    the end of its sequence."""
    number = torch.arange(N, device=first.device)
    sequence = torch.searchsorted(first, number, right=True) - 1
    return torch.stack((sequence, spans[sequence, 0] + (number - first[sequence]) * M), dim=1)


def walk_options(D: int, M: int, itemsize: int) -> tuple[triton.JITFunction, dict]:
    """The kernel that walks forward, and how it is launched.

    On sm_90 a state of 64 features stays in registers at the price of a spill of 0.5 kB a thread.
    Streamed it spills nothing, but takes four times the instructions and 450 kB of L2 traffic for
    each mini-batch, so by estimate, not yet measured on a GPU, it is the slower one.
    """
    if M == 16 and arch() >= 90 and itemsize == 2:
        return resident_kernel, options(D // 8)
    if M == 16 and itemsize == 2:
        return streamed_kernel, options(D // 8, HS=32)
    return streamed_kernel, options(8, HS=32 if M == 32 else 16)


def readers_options(D: int, M: int, itemsize: int) -> dict:
    if itemsize == 4:
        return options(8, HS=16)
    return options(4, HS=64) if M == 16 or arch() < 90 else options(8, HS=32)


def chain_options(D: int, M: int, itemsize: int) -> tuple[triton.JITFunction, dict]:
    """The kernel that walks back, and how it is launched."""
    if itemsize == 4:
        return streamed_chain_kernel, options(8, HS=16)
    if M > 16:
        return streamed_chain_kernel, options(8, HS=64 if arch() >= 100 else 32)
    if arch() < 90:
        return streamed_chain_kernel, options(D // 8, HS=2048 // D)
    if arch() >= 100 or D == 32:
        return resident_chain_kernel, options(D // 8)
    return streamed_chain_kernel, options(8, HS=128)


def options(warps: int, **constants: int) -> dict:
    """One stage: loads ahead would take registers that are not there."""
    return {"num_warps": warps, "num_stages": 1, "enable_fp_fusion": True, **constants}
