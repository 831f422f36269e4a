"""Shared by the Triton kernels: the GPU they are built for, tanh-GELU, the norm and its gradients.

gelu(x) = x sigmoid(w(x)) with w = 2 sqrt(2/pi) (x + 0.044715 x^3); its slope and curvature are
written out from s = sigmoid(w): s' = s (1 - s) w', s'' = s (1 - s) (w'' + (1 - 2 s) w'^2).

The norm's functions take tiles of tokens by features, whose features lie along AXIS: 1, or 0 where
every matrix is held transposed. A tile has D features and may be padded with zeros. Formulas and
names are those of dual/backward.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime import driver

from tttvideo.kernels import inner


INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
"""Whether TRITON_INTERPRET=1 runs the kernels on a CPU, statement by statement."""

EPS = tl.constexpr(inner.EPS)


def arch() -> int:
    """The GPU whose launch options are used, as 80, 90 or 100; 90 under the interpreter.

    GPUs other than Hopper and data-centre Blackwell have sm_80's matrix instructions and less
    shared memory.
    """
    if INTERPRETED.value:
        return 90
    found = driver.active.get_current_target().arch // 10 * 10
    return found if found in (90, 100) else 80


def result_like(x: Tensor, token_ranges: Tensor | None) -> Tensor:
    """A contiguous result shaped as x; tokens that no range covers keep zeros."""
    make = torch.empty if token_ranges is None else torch.zeros
    return make(x.shape, dtype=x.dtype, device=x.device)


@triton.jit
def of_head(x, strides, sequence, head):
    """x (B, T, H, ...) at the first token of one head; packed sequences have batch stride 0."""
    return x + sequence * strides[0] + head * strides[2]


@triton.jit
def lost(log_keep):
    """1 - g of a forget gate; by a series where g is close to 1, since 1 - exp would be rounded."""
    x = tl.maximum(log_keep, -0.125)
    series = -x * (1 + x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120)))))
    return tl.where(log_keep < -0.125, 1 - tl.exp(log_keep), series)


@triton.jit
def logistic(x, FAST: tl.constexpr):
    """sigmoid(w(x)) of tanh-GELU; FAST: one approximate instruction of 2^-11 relative error."""
    half = 0.7978845608028654 * (x + 0.044715 * x * x * x)
    if FAST:
        tanh = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [half], dtype=tl.float32, is_pure=True, pack=1
        )
        return 0.5 * tanh + 0.5
    return tl.sigmoid(2 * half)


@triton.jit
def gelu(x, FAST: tl.constexpr):
    return x * logistic(x, FAST)


@triton.jit
def gelu_and_slope(x, FAST: tl.constexpr):
    s = logistic(x, FAST)
    rise = 1.5957691216057308 * (1 + 0.134145 * x * x)
    return x * s, s + x * s * (1 - s) * rise


@triton.jit
def gelu_slope_curvature(x, FAST: tl.constexpr):
    """gelu, its first and its second derivative."""
    s = logistic(x, FAST)
    rise = 1.5957691216057308 * (1 + 0.134145 * x * x)
    bend = 0.42812890 * x  # of w: 2 sqrt(2/pi) 6 0.044715 x
    bump = s * (1 - s)
    curve = bump * (2 * rise + x * (bend + (1 - 2 * s) * rise * rise))
    return x * s, s + x * bump * rise, curve


@triton.jit
def mean(x, D: tl.constexpr, AXIS: tl.constexpr):
    """The mean of each row, for broadcasting."""
    return tl.sum(x, AXIS, keep_dims=True) * (1 / D)


@triton.jit
def add_pairs(x, y, more_x, more_y):
    return x + more_x, y + more_y


@triton.jit
def means(x, y, D: tl.constexpr, AXIS: tl.constexpr):
    """The means of each row of x and of y, in one round of exchange between threads."""
    if INTERPRETED:  # it reduces pairs one element at a time
        return mean(x, D, AXIS), mean(y, D, AXIS)
    else:
        x, y = tl.reduce((x, y), AXIS, add_pairs, keep_dims=True)
        return x * (1 / D), y * (1 / D)


@triton.jit
def unpadded(x, D: tl.constexpr, AXIS: tl.constexpr):
    """x with zeros beyond its D features."""
    if x.shape[AXIS] != D:
        x = tl.where(tl.expand_dims(tl.arange(0, x.shape[AXIS]), 1 - AXIS) < D, x, 0.0)
    return x


@triton.jit
def normalize(z, D: tl.constexpr, AXIS: tl.constexpr):
    """x = (z - mean) rstd by row, and rstd."""
    x = unpadded(z - mean(z, D, AXIS), D, AXIS)
    rstd = tl.rsqrt(mean(x * x, D, AXIS) + EPS)
    return x * rstd, rstd


@triton.jit
def normalize_both(y, z, D: tl.constexpr, AXIS: tl.constexpr):
    """`normalize` of y, then of z, with the rounds of exchange of one."""
    mean_y, mean_z = means(y, z, D, AXIS)
    y, z = unpadded(y - mean_y, D, AXIS), unpadded(z - mean_z, D, AXIS)
    var_y, var_z = means(y * y, z * z, D, AXIS)
    rstd_y, rstd_z = tl.rsqrt(var_y + EPS), tl.rsqrt(var_z + EPS)
    return y * rstd_y, rstd_y, z * rstd_z, rstd_z


@triton.jit
def project(d, x, D: tl.constexpr, AXIS: tl.constexpr):
    """P d = d - mean d - x mean(x d), and mean(x d)."""
    mean_d, mean_xd = means(d, x * d, D, AXIS)
    return unpadded(d - mean_d - x * mean_xd, D, AXIS), mean_xd


@triton.jit
def inner_gradient(x, rstd, k, v, norm_weight, norm_bias, D: tl.constexpr, AXIS: tl.constexpr):
    """G = r P p; f = k + norm_bias + norm_weight x - v and mean(x p), for inner_adjoint."""
    f = norm_weight * x + (k + norm_bias - v)
    G, mean_xp = project(norm_weight * f, x, D, AXIS)
    return rstd * G, f, mean_xp


@triton.jit
def inner_adjoint(dS, G, x, rstd, mean_xp, eta, norm_weight, D: tl.constexpr, AXIS: tl.constexpr):
    """The gradients of p, z and eta, (dp, dz, deta), given that of S = eta G."""
    dp, mean_xdS = project(dS, x, D, AXIS)
    deta = tl.sum(G * dS, AXIS, keep_dims=True)
    dp *= eta * rstd
    dz, _ = project((norm_weight * norm_weight - mean_xp) * dp, x, D, AXIS)
    by_x = deta * (1 / D) + EPS * rstd * rstd * rstd * mean_xp * mean_xdS
    return dp, rstd * dz - eta * rstd * (mean_xdS * G + by_x * x), deta
