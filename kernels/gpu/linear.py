"""TTT-Linear over whole sequences on a GPU: which kernels are launched, and how.

linear_kernels.py describes the kernels.

B batch, T tokens, H heads, S sequences, D head dim, M mini-batch size.
"""

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
    """y, W and b after the last whole mini-batch, S of the open one; if `save`, S of every token.

    q, k, v (B, T, H, D), any strides; eta (B, T, H), token_scale (M,), norm_weight, norm_bias
    (H, D) and weights W (S, H, D, D), b (S, H, 1, D) float32. token_ranges: (S, 2) int32, first
    token and last plus one of S sequences packed into B = 1, or None for S = B sequences of T.
    Open rows S: (S, H, M, D) float32, zeros where none is open.
    """
    (_, T, H, D), M, S = q.shape, len(token_scale), len(weights[0])
    y = result_like(q, token_ranges)
    after = tuple(torch.empty_like(w) for w in weights)
    open_rows = weights[0].new_zeros(S, H, M, D)

    def launch(plan: Plan) -> list[Tensor]:
        steps = torch.empty_like(y) if save or "readers" in plan else None
        for part, chosen in plan.items():
            FORWARD[part][S * H, blocks(part, M, chosen)](
                q, k, v, eta, token_scale, norm_weight, norm_bias, tuple(weights), token_ranges,
                y, after, open_rows, steps, T, H, q.stride(), k.stride(), v.stride(), eta.stride(),
                D=D, M=M, **chosen,
            )  # fmt: skip
        return [steps] if steps is not None and save else []

    plans = forward_plans(arch(), D, M, q.itemsize)
    with torch.cuda.device_of(q):  # Triton launches on the current device
        saved = launch(tuning.fastest(f"linear forward {save} {kind(q, M, S)}", plans, launch))
    return [y, *after, open_rows, *saved]


def like(q: Tensor, *others: Any) -> list[Tensor]:
    """Empty results of `forward`."""
    *_, token_scale, _, _, _, weights, _, _, _, save = others
    S, H, D, _ = weights[0].shape
    open_rows = weights[0].new_empty(S, H, len(token_scale), D)
    saved = [q.new_empty(q.shape)] if save else []
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
    """Gradients of q, k, v, eta, token_scale, norm_weight, norm_bias and the weights before.

    grads: those of y, of the weights after and of the open rows. results: forward's, without y.
    """
    (_, T, H, D), M, S = q.shape, len(token_scale), len(weights[0])
    dy, *rest = grads
    *dafter, dopen = (x.contiguous() for x in rest)  # a sum's gradient, for one, has strides of 0
    *after, _, steps = results
    dq, dk, dv, deta = (result_like(x, token_ranges) for x in (q, k, v, eta))
    dweights = tuple(torch.empty_like(w) for w in weights)
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
                tuple(after), steps, token_ranges, dq, dk, dv, deta, dscale, dlast, tuple(dnorm),
                dweights, dz_reads, zs, T, H,
                dy.stride(), q.stride(), k.stride(), v.stride(), eta.stride(),
                D=D, M=M, **chosen,
            )  # fmt: skip
        return sums

    plans = backward_plans(arch(), D, M, q.itemsize)
    with torch.cuda.device_of(q):
        sums = launch(tuning.fastest(f"linear backward {kind(q, M, S)}", plans, launch))
    dtoken_scale = dscale.sum(0)
    dtoken_scale[-1] += dlast.sum()
    dnorm_weight, dnorm_bias = (x.sum((0, 1)) for x in torch.cat(sums, dim=1))
    return [dq, dk, dv, deta, dtoken_scale, dnorm_weight, dnorm_bias, *dweights]


OPERATOR = operator("triton_linear", forward, like, backward, open_rows=1)


def blocks(part: str, M: int, chosen: dict) -> int:
    """Programs for each sequence and head."""
    return M // chosen["ROWS"] if part == "readers" else 1


def kind(q: Tensor, M: int, S: int) -> str:
    """The sizes that the fastest plan depends on; the number of programs as a power of two."""
    D, programs = q.shape[-1], triton.next_power_of_2(S * q.shape[2])
    return f"D{D} M{M} {q.dtype} {programs} programs"


def forward_plans(arch: int, D: int, M: int, itemsize: int) -> list[Plan]:
    """Kernels to launch and their options; all plans compute the same, the first is the default."""
    whole = {"sweep": options(arch, D, M, itemsize, LICM=D <= 64)}
    parts = {part: options(arch, D, 16, itemsize) for part in ("writers", "readers")}
    return [whole, parts] if M == 16 else [parts]


def backward_plans(arch: int, D: int, M: int, itemsize: int) -> list[Plan]:
    """As forward_plans. One sweep moves less memory; separate kernels wait less."""
    whole = {"sweep": options(arch, D, M, itemsize)}
    parts = {part: options(arch, D, 16, itemsize) for part in ("readers", "writers")}
    parts["keys"] = options(arch, D, M, itemsize)
    if D <= 32:
        parts["writers"]["AXIS"] = 0  # on every GPU the shorter loop, and no spills
    swept = M == 16 and itemsize == 2 and D in (16, 64) and arch > 80  # elsewhere it spills
    return [whole, parts] if swept else [parts]


def options(arch: int, D: int, ROWS: int, itemsize: int, LICM: bool = False) -> dict:
    """LICM, hoisting constants out of the loop, needs registers; two warps have too few."""
    stages = 2 if itemsize == 2 else 1  # two of float32 are more than shared memory
    launch = dict(num_warps=4 if D <= 64 else 8, enable_fp_fusion=True)
    return dict(ROWS=ROWS, AXIS=int(arch > 80), STAGES=stages, LICM=LICM, **launch)
