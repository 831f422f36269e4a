"""TTT-Linear over whole sequences on a GPU: which kernels are launched, and how.

linear_kernels.py describes the kernels.

B batch, T tokens, H heads, S sequences, D head dim, M mini-batch size.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from tttvideo.kernels import tuning
from tttvideo.kernels.operator import operator

from .linear_kernels import (
    backward_keys_kernel,
    backward_readers_kernel,
    backward_sweep_kernel,
    backward_writers_kernel,
    forward_readers_kernel,
    forward_sweep_kernel,
    forward_writers_kernel,
)
from .shared import arch, result_like


Plan = dict[str, dict]
"""Options by part, in the order of launches."""

FORWARD = {
    "sweep": forward_sweep_kernel,
    "writers": forward_writers_kernel,
    "readers": forward_readers_kernel,
}
BACKWARD = {
    "sweep": backward_sweep_kernel,
    "readers": backward_readers_kernel,
    "writers": backward_writers_kernel,
    "keys": backward_keys_kernel,
}


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
    """y, W and b after the last whole mini-batch, S of the open one; if `save`, S of every token,
    and with a forget gate W - W0 and b - b0 before each mini-batch and after the last.

    q, k, v (B, T, H, D), any strides; eta, log_keep (B, T, H), token_scale (M,), norm_weight,
    norm_bias (H, D), weights W (S, H, D, D), b (S, H, 1, D) and start, W0 (H, D, D), b0 (H, 1, D),
    float32. token_ranges: (S, 2) int32, first token and last plus one of S sequences packed into
    B = 1, or None for S = B sequences of T. Open rows S: (S, H, M, D) float32, zeros where none is
    open.
    """
    (_, T, H, D), M, S = q.shape, len(token_scale), len(weights[0])
    y = result_like(q, token_ranges)
    after = tuple(torch.empty_like(w) for w in weights)
    open_rows = weights[0].new_zeros(S, H, M, D)
    log_keep, W0 = gate(log_keep, start)
    seen = memories(q, M, S, token_ranges) if save and start else []

    def launch(plan: Plan) -> list[Tensor]:
        steps = torch.empty_like(y) if save or "readers" in plan else None
        for part, chosen in plan.items():
            FORWARD[part][S * H, blocks(part, M, chosen)](
                q, k, v, eta, token_scale, norm_weight, norm_bias, log_keep, tuple(weights), W0,
                token_ranges, y, after, open_rows, steps, tuple(seen) or None, T, H,
                q.stride(), k.stride(), v.stride(), eta.stride(), D=D, M=M, CAUSAL=causal, **chosen,
            )  # fmt: skip
        return [steps] if steps is not None and save else []

    plans = forward_plans(arch(), D, M, q.itemsize)
    name = f"linear forward {save} {kind(q, M, S, bool(start), causal)}"
    with torch.cuda.device_of(q):  # Triton launches on the current device
        saved = launch(tuning.fastest(name, plans, launch))
    return [y, *after, open_rows, *saved, *seen]


def like(q: Tensor, *others: Any) -> list[Tensor]:
    """Empty results of `forward`."""
    *_, token_scale, _, _, _, weights, start, token_ranges, _, save = others
    (S, H, D, _), M = weights[0].shape, len(token_scale)
    open_rows = weights[0].new_empty(S, H, M, D)
    saved = [q.new_empty(q.shape)] if save else []
    if save and start:
        saved += memories(q, M, S, token_ranges)
    return [*(x.new_empty(x.shape) for x in (q, *weights)), open_rows, *saved]


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
    """Gradients of q, k, v, eta, token_scale, norm_weight, norm_bias, log_keep, the weights before
    and start.

    grads: those of y, of the weights after and of the open rows. results: forward's, without y.
    """
    (_, T, H, D), M, S = q.shape, len(token_scale), len(weights[0])
    dy, *rest = grads
    *dafter, dopen = (x.contiguous() for x in rest)  # a sum's gradient, for one, has strides of 0
    *after, _, steps = results[:4]
    seen, (log_keep, W0) = tuple(results[4:]) or None, gate(log_keep, start)
    dq, dk, dv, deta = (result_like(x, token_ranges) for x in (q, k, v, eta))
    dweights = tuple(torch.empty_like(w) for w in weights)
    dkeep = None if log_keep is None else eta.new_zeros(eta.shape)
    dstart = tuple(torch.empty_like(w) for w in weights) if start else None
    dscale, dlast = eta.new_empty(S * H, M), eta.new_empty(S * H)

    def launch(plan: Plan) -> list[Tensor]:
        dz_reads, zs = [torch.empty_like(x) if "keys" in plan else None for x in (dq, dk)]
        sums = []
        for part, chosen in plan.items():
            dnorm = eta.new_empty(2, blocks(part, M, chosen), S, H, D)
            if part != "keys":
                sums.append(dnorm)
            BACKWARD[part][S * H, blocks(part, M, chosen)](
                dy, tuple(dafter), dopen, q, k, v, eta, token_scale, norm_weight, norm_bias,
                log_keep, W0, tuple(after), steps, seen, token_ranges, dq, dk, dv, deta,
                dscale, dlast, tuple(dnorm), dkeep, dweights, dstart, dz_reads, zs,
                T, H, dy.stride(), q.stride(), k.stride(), v.stride(), eta.stride(),
                D=D, M=M, CAUSAL=causal, **chosen,
            )  # fmt: skip
        return sums

    plans = backward_plans(arch(), D, M, q.itemsize, causal and not start)
    name = f"linear backward {kind(q, M, S, bool(start), causal)}"
    with torch.cuda.device_of(q):
        sums = launch(tuning.fastest(name, plans, launch))
    dtoken_scale = dscale.sum(0)
    dtoken_scale[-1] += dlast.sum()
    dnorm_weight, dnorm_bias = (x.sum((0, 1)) for x in torch.cat(sums, dim=1))
    dinputs = [dq, dk, dv, deta, dtoken_scale, dnorm_weight, dnorm_bias]
    if dkeep is None or dstart is None:
        return [*dinputs, *dweights]
    return [*dinputs, dkeep, *dweights, *gate_gradients(dafter, dweights, dstart)]


OPERATOR = operator("triton_linear", forward, like, backward, open_rows=1)


def gate(
    log_keep: Tensor | None, start: list[Tensor]
) -> tuple[Tensor | None, tuple[Tensor, ...] | None]:
    """The forget gate as kernels take it; None without one."""
    if log_keep is None:
        return None, None
    return log_keep.contiguous(), tuple(w.contiguous() for w in start)


def gate_gradients(
    dafter: list[Tensor], dweights: Sequence[Tensor], added: Sequence[Tensor]
) -> list[Tensor]:
    """Gradients of W0 and b0, given what all mini-batches added to those of W and b."""
    return [(x + end - begin).sum(0) for x, end, begin in zip(added, dafter, dweights, strict=True)]


def memories(q: Tensor, M: int, S: int, token_ranges: Tensor | None) -> list[Tensor]:
    """Places for W - W0, in q's dtype, and b - b0, float32, where first_memory numbers them."""
    _, T, H, D = q.shape
    N = S * (T // M + 1) if token_ranges is None else T // M + 2 * S
    make = q.new_empty if token_ranges is None else q.new_zeros  # between sequences are gaps
    return [make(N, H, D, D), make(N, H, 1, D, dtype=torch.float32)]


def blocks(part: str, M: int, chosen: dict) -> int:
    """Programs for each sequence and head."""
    return M // chosen["ROWS"] if part == "readers" else 1


def kind(q: Tensor, M: int, S: int, forget: bool = False, causal: bool = True) -> str:
    """What the fastest plan depends on; the number of programs as a power of two."""
    D, programs = q.shape[-1], triton.next_power_of_2(S * q.shape[2])
    return f"D{D} M{M} {q.dtype} {programs} programs, forget {forget}, causal {causal}"


def forward_plans(arch: int, D: int, M: int, itemsize: int) -> list[Plan]:
    """Kernels to launch and their options; all plans compute the same, the first is the default."""
    whole = {"sweep": options(arch, D, M, itemsize, LICM=D <= 64)}
    parts = {part: options(arch, D, 16, itemsize) for part in ("writers", "readers")}
    return [whole, parts] if M == 16 else [parts]


def backward_plans(arch: int, D: int, M: int, itemsize: int, sweep: bool = True) -> list[Plan]:
    """As forward_plans. One sweep moves less memory; separate kernels wait less.

    sweep: whether the kernel `sweep` can do it.
    """
    whole = {"sweep": options(arch, D, M, itemsize)}
    parts = {part: options(arch, D, 16, itemsize) for part in ("readers", "writers")}
    parts["keys"] = options(arch, D, M, itemsize)
    if D <= 32:
        parts["writers"]["AXIS"] = 0  # on every GPU the shorter loop, and no spills
    swept = (
        sweep and M == 16 and itemsize == 2 and D in (16, 64) and arch > 80
    )  # elsewhere it spills
    return [whole, parts] if swept else [parts]


def options(arch: int, D: int, ROWS: int, itemsize: int, LICM: bool = False) -> dict:
    """LICM, hoisting constants out of the loop, needs registers; two warps have too few."""
    stages = 2 if itemsize == 2 else 1  # two of float32 are more than shared memory
    launch = dict(num_warps=4 if D <= 64 else 8, enable_fp_fusion=True)
    return dict(ROWS=ROWS, AXIS=int(arch > 80), STAGES=stages, LICM=LICM, **launch)
