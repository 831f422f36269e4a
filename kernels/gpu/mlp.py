"""TTT-MLP over whole sequences on a GPU: which kernels are launched, and how.

mlp_kernels.py describes the kernels.

B batch, T tokens, H heads, S sequences, D head dim, E hidden units, M mini-batch size, N
mini-batches in all.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from tttvideo.kernels import tuning
from tttvideo.kernels.operator import operator

from .linear import kind
from .mlp_kernels import (
    backward_gate_kernel,
    backward_keys_kernel,
    backward_readers_kernel,
    backward_resident_kernel,
    backward_streamed_kernel,
    forward_resident_kernel,
    forward_streamed_kernel,
)
from .shared import arch, result_like


FORWARD = {"resident": forward_resident_kernel, "streamed": forward_streamed_kernel}
BACKWARD = {"resident": backward_resident_kernel, "streamed": backward_streamed_kernel}
"""The chain through the states, by where it keeps them: in registers or in memory."""

Plan = dict[str, dict]
"""One of them, and its launch options."""


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    log_keep: Tensor | None,
    weights: list[Tensor],
    start: list[Tensor],
    token_ranges: Tensor | None,
    causal: bool,
    save: bool,
) -> list[Tensor]:
    """y, weights after the last whole mini-batch, open rows X2, S1, S2; if `save`, for backward:
    each sequence's first mini-batch, and the weights at the start of all mini-batches.

    Arguments as in linear.forward, with weights W1 (S, H, D, E), b1, W2 (S, H, E, D), b2.
    Open rows: (S, H, M, E or D) float32, zeros where none is open.
    """
    H, D, M, E = *q.shape[2:], len(token_scale), weights[0].shape[-1]
    S, packed = len(weights[0]), token_ranges is not None
    gate = forget_gate(log_keep, start, packed)
    y = result_like(q, token_ranges)
    N = mini_batches(q, M, S, packed) if save else S
    copies = tuple(w.new_empty(N, *w.shape[1:], dtype=q.dtype) for w in weights[::2])
    biases = tuple(b.new_empty(N if save else 0, *b.shape[1:]) for b in weights[1::2])
    open_rows = tuple(weights[0].new_zeros(S, H, M, features) for features in (E, E, D))
    after = tuple(torch.empty_like(w) for w in weights)
    token_ranges = whole_ranges(q) if token_ranges is None else token_ranges
    first = first_mini_batches(token_ranges, M)

    def launch(plan: Plan) -> None:
        for storage, chosen in plan.items():
            FORWARD[storage][(S * H,)](
                q, k, v, eta, token_scale, norm_weight, norm_bias, tuple(weights), token_ranges, y,
                after, open_rows, (*copies, *biases), first, gate, H,
                *strides(q, k, v, eta, y, packed=packed), D, E, M, causal, SAVE=save, **chosen,
            )  # fmt: skip

    forget = gate is not None
    name = f"mlp forward {save} {kind(q, M, S, forget, causal)}"
    plans = forward_plans(arch(), D, M, q.itemsize, forget)
    with torch.cuda.device_of(q):  # Triton launches on the current device
        launch(tuning.fastest(name, plans, launch))
    return [y, *after, *open_rows, *((first, *copies, *biases) if save else ())]


def like(q: Tensor, *others: Any) -> list[Tensor]:
    """Empty results of `forward`."""
    *_, token_scale, _, _, _, weights, _, token_ranges, _, save = others
    (S, H, D, E), M = weights[0].shape, len(token_scale)
    open_rows = [weights[0].new_empty(S, H, M, features) for features in (E, E, D)]
    saved = []
    if save:
        N, dtypes = mini_batches(q, M, S, token_ranges is not None), (q.dtype, weights[1].dtype)
        order = (0, 2, 1, 3)  # copies of W1 and W2, then b1 and b2
        saved = [weights[i].new_empty(N, *weights[i].shape[1:], dtype=dtypes[i % 2]) for i in order]
        saved.insert(0, q.new_empty(S, dtype=torch.int64))
    return [*(x.new_empty(x.shape) for x in (q, *weights)), *open_rows, *saved]


def backward(
    grads: list[Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    log_keep: Tensor | None,
    weights: list[Tensor],
    start: list[Tensor],
    results: list[Tensor],
    token_ranges: Tensor | None,
    causal: bool,
) -> list[Tensor]:
    """Gradients of forward's tensors in their order, of log_keep and `start` if there is a gate.

    grads: those of y, of the weights after and of the open rows. results: forward's, without y.
    """
    H, D, M, E = *q.shape[2:], len(token_scale), weights[0].shape[-1]
    dy, *rest = grads
    dopen = tuple(x.contiguous() for x in rest[4:])  # a sum's gradient, for one, has strides of 0
    dafter = tuple(w.contiguous() for w in rest[:4])
    dweights = tuple(w.clone() for w in dafter)
    first, *copies = results[7:]
    S, N, packed = len(first), len(copies[0]), token_ranges is not None
    gate = forget_gate(log_keep, start, packed)
    dq, dk, dv, deta = (result_like(x, token_ranges) for x in (q, k, v, eta))
    token_ranges = whole_ranges(q) if token_ranges is None else token_ranges
    starts = mini_batch_starts(token_ranges, first, N, M)
    hidden = q.new_empty(N, H, 8, E, M)
    rounded = q.new_empty(N, H, 2, D, M)
    exact = eta.new_empty(N, H, 3, D, M)
    dscale, dnorm = eta.new_zeros(N, H, M), eta.new_zeros(N, H, 2, D)
    dlast, dnorm_inner = eta.new_empty(S, H), eta.new_empty(S, H, 2, D)
    dq_strides, dk_strides, *dv_deta_strides = strides(dq, dk, dv, deta, packed=packed)
    q_to_eta_strides = strides(q, k, v, eta, packed=packed)
    ((storage, chosen),) = backward_plan(arch(), D, M, q.itemsize).items()
    with torch.cuda.device_of(q):
        backward_readers_kernel[(N * H,)](
            dy, dopen, q, k, v, eta, token_scale, norm_weight, norm_bias, tuple(copies),
            token_ranges, starts, dq, dscale, dnorm, hidden, rounded, exact, H,
            *strides(dy, packed=packed), *q_to_eta_strides, dq_strides,
            D, E, M, causal, **readers_options(D, M, q.itemsize),
        )  # fmt: skip
        BACKWARD[storage][(S * H,)](
            q, k, v, eta, token_scale, norm_weight, norm_bias, tuple(copies), token_ranges, first,
            gate, dv, deta, dlast, dnorm_inner, dweights, hidden, rounded, exact, H,
            *q_to_eta_strides, *dv_deta_strides, D, E, M, **chosen,
        )  # fmt: skip
        backward_keys_kernel[(N * H,)](
            hidden, exact, tuple(copies), token_ranges, starts, dk, H, dk_strides, D, E, M,
            **options(4, HS=128),
        )  # fmt: skip
        rows = q, k, token_scale, tuple(copies), token_ranges, first, gate, dafter
        dgate, dstart = gate_backward(rows, hidden, rounded, exact, packed) if gate else ([], [])
    dtoken_scale = scale_backward(dscale, dlast, causal)
    dshared = dtoken_scale, *(x.clone() for x in (dnorm.sum(0) + dnorm_inner.sum(0)).unbind(1))
    return [dq, dk, dv, deta, *dshared, *dgate, *dweights, *dstart]


OPERATOR = operator("triton_mlp", forward, like, backward, open_rows=3)


def scale_backward(dscale: Tensor, dlast: Tensor, causal: bool) -> Tensor:
    """The gradient of token_scale, given those by reader (N, H, M) and of the steps (S, H)."""
    by_place = dscale.sum((0, 1))
    if not causal:  # all readers have the last factor
        by_place = torch.cat((by_place.new_zeros(len(by_place) - 1), by_place.sum(0, keepdim=True)))
    by_place[-1] += dlast.sum()
    return by_place


def forget_gate(log_keep: Tensor | None, start: list[Tensor], packed: bool) -> tuple | None:
    """What kernels get of the gate: 1 - g by token, its strides, and W0."""
    if log_keep is None:
        return None
    forget = -torch.expm1(log_keep)
    return forget, *strides(forget, packed=packed), tuple(w.contiguous() for w in start)


def gate_backward(
    operands: tuple, hidden: Tensor, rounded: Tensor, exact: Tensor, packed: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of log_keep and of `start`; operands: the first of backward_gate_kernel's."""
    q, k, *_, gate, dafter = operands
    S, H, D, E = dafter[0].shape
    HS = 32 if q.itemsize == 2 and hidden.shape[-1] <= 32 else 16
    dkeep = gate[0].new_zeros(*gate[0].shape, E // HS)
    dstart = tuple(torch.empty_like(w) for w in dafter)
    backward_gate_kernel[S * H, E // HS](
        *operands, dkeep, dstart, hidden, rounded, exact, H,
        *strides(q, k, dkeep, packed=packed), D, E, hidden.shape[-1], **options(4, HS=HS),
    )  # fmt: skip
    return [dkeep.sum(-1)], [w.sum(0) for w in dstart]


def strides(*tensors: Tensor, packed: bool) -> tuple[tuple[int, ...], ...]:
    """Strides by sequence, token, head, feature; packed sequences lie in the same row of tokens."""
    return tuple((0, *x.stride()[1:]) if packed else x.stride() for x in tensors)


def whole_ranges(q: Tensor) -> Tensor:
    """token_ranges (S, 2) of sequences that are not packed: all of their tokens."""
    ranges = q.new_zeros(len(q), 2, dtype=torch.int32)
    ranges[:, 1] = q.shape[1]
    return ranges


def mini_batches(q: Tensor, M: int, S: int, packed: bool) -> int:
    """An upper bound for all sequences, without reading token_ranges from the device."""
    T = q.shape[1]
    return T // M + S if packed else S * triton.cdiv(T, M)


def first_mini_batches(token_ranges: Tensor, M: int) -> Tensor:
    """The number of each sequence's first mini-batch among those of all, (S,)."""
    counts = (token_ranges[:, 1] - token_ranges[:, 0] + M - 1) // M
    return counts.cumsum(0) - counts


def mini_batch_starts(token_ranges: Tensor, first: Tensor, N: int, M: int) -> Tensor:
    """Sequence and first token of N mini-batches, (N, 2).

    The first token of a mini-batch that does not exist is past the end of its sequence.
    """
    number = torch.arange(N, device=first.device)
    sequence = torch.searchsorted(first, number, right=True) - 1
    start = token_ranges[sequence, 0] + (number - first[sequence]) * M
    return torch.stack((sequence, start), dim=1)


def forward_plans(arch: int, D: int, M: int, itemsize: int, forget: bool) -> list[Plan]:
    """Where forward may keep the state; the first is the default.

    On sm_90 a resident state of 64 features spills 256 bytes a thread, 5 % of the loop's
    instructions; with a forget gate, which reads W0 too, 512 bytes, a tenth of them. Streamed it
    spills nothing, takes four times the instructions and 400 kB of L2 traffic for each mini-batch.
    Which is faster the GPU says.
    """
    if M > 16 or itemsize == 4:
        return [{"streamed": options(8, HS=32 if M == 32 else 16)}]
    resident = {"resident": options(D // 8)}
    streamed = {"streamed": options(D // 8, HS=16 if forget else 32)}
    if arch < 90:
        return [streamed]
    if D == 32:
        return [resident]
    if forget:
        return [streamed, resident]
    return [resident, streamed] if arch == 90 else [resident]


def readers_options(D: int, M: int, itemsize: int) -> dict:
    if itemsize == 4:
        return options(8, HS=16)
    return options(4, HS=64) if M == 16 or arch() < 90 else options(8, HS=32)


def backward_plan(arch: int, D: int, M: int, itemsize: int) -> Plan:
    """Where the chain of backward keeps the gradients of the state.

    On sm_100 the resident form of 64 features asks for 576 columns of tensor memory; there are 512.
    """
    if itemsize == 4:
        return {"streamed": options(8, HS=16)}
    if M > 16:
        return {"streamed": options(8, HS=64 if arch >= 100 else 32)}
    if arch < 90:
        return {"streamed": options(D // 8, HS=2048 // D)}
    if D == 32:
        return {"resident": options(4)}
    return {"streamed": options(8, HS=64 if arch >= 100 else 128)}


def options(warps: int, **constants: int) -> dict:
    """One stage: loads ahead would take registers that the kernels need."""
    return {"num_warps": warps, "num_stages": 1, "enable_fp_fusion": True, **constants}
