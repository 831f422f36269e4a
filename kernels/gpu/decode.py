"""TTT-Linear and TTT-MLP for one token of each sequence, in place: decoding on a GPU.

The dual form with a late step (arXiv 2407.04620, section 2.5). The token at place p of its
mini-batch reads, layer by layer,

    z = x W + b - t_p sum_{j <= p} (x X_j + 1) S_j

from the rows of the open mini-batch, its own included, and W is written once in M tokens; a forget
gate W -= (1 - g) (W - W0) belongs to that step. This moves less than half of the memory that W and
a running sum of gradients would take.

All inputs of a call are on the device, each sequence's place too, and only y is allocated, so a
CUDA graph can hold the call. Rows from p on are not read; they may hold anything.

B sequences, H heads, D head dim, E inner hidden, M mini-batch size.
"""

import triton
import triton.language as tl
from torch import Tensor

from tttvideo.kernels.slots import Slots

from .shared import gelu, gelu_and_slope, inner_gradient, lost, normalize


def decode_(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    slots: Slots,
    log_keep: Tensor | None = None,
) -> Tensor:
    """y (B, 1, H, D) of one token per sequence; `slots` are updated.

    q, k, v: (B, 1, H, D), any strides, in the dtype of the slots' rows. With two inner layers D and
    E are powers of two.
    eta, and log_keep for slots with a start: (B, 1, H) float32, any strides; token_scale (M,),
    norm_weight and norm_bias (H, D) float32.
    """
    kernel = linear_kernel if len(slots.weights) == 2 else mlp_kernel
    B, _, H, D = q.shape
    M, widest = slots.rows[0].shape[2], slots.weights[0].shape[-1]
    y = q.new_empty(q.shape)
    gate = None if log_keep is None else (log_keep, (log_keep.stride(0), log_keep.stride(2)))
    kernel[(B * H,)](
        *((x, (x.stride(0), *x.stride()[2:])) for x in (q, k, v, eta)),
        token_scale, norm_weight, norm_bias, gate, slots.weights, slots.start or None,
        slots.operands, slots.rows, slots.places, y, H,
        D=D, WIDTH=triton.next_power_of_2(widest), M=M,
        ROWS=max(16, triton.next_power_of_2(M)),  # 16: the least that a product in `step` takes
        BLOCK=min(32, D & -D),
        num_warps=4 if widest <= 96 else 8, num_stages=1, enable_fp_fusion=True,
    )  # fmt: skip
    return y


@triton.jit(repr=lambda _: "ttt_linear_decode")
def linear_kernel(
    q, k, v, eta, token_scale, norm_weight, norm_bias, log_keep, weights, W0, operands, rows,
    places, y, H, D: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: one head of one sequence. D is padded to WIDTH, M to ROWS, with zeros."""
    sequence, head = tl.program_id(0) // H, tl.program_id(0) % H
    lane = tl.program_id(0).to(tl.int64)
    W, b, operand = weights[0] + lane * D * D, weights[1] + lane * D, operands[0] + lane * D * D
    X, S = rows[0] + lane * M * D, rows[1] + lane * M * D
    d, j = tl.arange(0, WIDTH)[None, :], tl.arange(0, ROWS)[:, None]
    inside = d < D
    place = tl.load(places + lane)
    i = tl.arange(0, WIDTH)[:, None]
    W_p = tl.load(operand + i * D + d, (i < D) & inside, 0.0)
    b_p = tl.load(b + d, inside, 0.0)
    X_j = tl.load(X + j * D + d, (j < place) & inside, 0.0)
    S_j = tl.load(S + j * D + d, (j < place) & inside, 0.0)
    q_p, k_p = token(q, sequence, head, d, inside), token(k, sequence, head, d, inside)
    v_p = token(v, sequence, head, d, inside)
    eta_p = tl.load(eta[0] + sequence.to(tl.int64) * eta[1][0] + head * eta[1][1])
    t_p = tl.load(token_scale + place)
    weight = tl.load(norm_weight + head * D + d, inside, 0.0)
    bias = tl.load(norm_bias + head * D + d, inside, 0.0)

    earlier = read(q_p, X_j, S_j)
    z_read = times(q_p, W_p) + b_p
    x, rstd = normalize(times(k_p, W_p) + b_p, D, 1)
    G, _, _ = inner_gradient(x, rstd, k_p, v_p, weight, bias, D, 1)
    S_p = (eta_p * G).to(S_j.dtype).to(tl.float32)
    x, _ = normalize(z_read - t_p * (earlier + read(q_p, k_p, S_p)), D, 1)
    tl.store(y + lane * D + d, q_p + bias + weight * x, inside)
    tl.store(X + place * D + d, k_p, inside)
    tl.store(S + place * D + d, S_p, inside)

    tl.debug_barrier()  # all threads have read W, b and place; all will see the new rows
    tl.store(places + lane, (place + 1) % M)
    if place == M - 1:
        f = forgotten(log_keep, sequence, head)
        step(W, b, operand, X, S, t_p, W0, 0, head, f, D, D, M, ROWS, BLOCK)


@triton.jit(repr=lambda _: "ttt_mlp_decode")
def mlp_kernel(
    q, k, v, eta, token_scale, norm_weight, norm_bias, log_keep, weights, W0, operands, rows,
    places, y, H, D: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: one head of one sequence. E is WIDTH; M is padded to ROWS with zeros."""
    E: tl.constexpr = WIDTH
    sequence, head = tl.program_id(0) // H, tl.program_id(0) % H
    lane = tl.program_id(0).to(tl.int64)
    W1, b1, operand1 = weights[0] + lane * D * E, weights[1] + lane * E, operands[0] + lane * D * E
    W2, b2, operand2 = weights[2] + lane * E * D, weights[3] + lane * D, operands[1] + lane * E * D
    X1, S1 = rows[0] + lane * M * D, rows[1] + lane * M * E
    X2, S2 = rows[2] + lane * M * E, rows[3] + lane * M * D
    d, e = tl.arange(0, D)[None, :], tl.arange(0, E)[None, :]
    j = tl.arange(0, ROWS)[:, None]
    inside = d < D
    place = tl.load(places + lane)
    W1_p = tl.load(operand1 + tl.arange(0, D)[:, None] * E + e)
    b1_p = tl.load(b1 + e)
    W2_p = tl.load(operand2 + tl.arange(0, E)[:, None] * D + d)
    b2_p = tl.load(b2 + d)
    X1_j = tl.load(X1 + j * D + d, j < place, 0.0)
    S1_j = tl.load(S1 + j * E + e, j < place, 0.0)
    X2_j = tl.load(X2 + j * E + e, j < place, 0.0)
    S2_j = tl.load(S2 + j * D + d, j < place, 0.0)
    q_p, k_p = token(q, sequence, head, d, inside), token(k, sequence, head, d, inside)
    v_p = token(v, sequence, head, d, inside)
    eta_p = tl.load(eta[0] + sequence.to(tl.int64) * eta[1][0] + head * eta[1][1])
    t_p = tl.load(token_scale + place)
    weight = tl.load(norm_weight + head * D + d, inside, 0.0)
    bias = tl.load(norm_bias + head * D + d, inside, 0.0)

    earlier = read(q_p, X1_j, S1_j)
    z_read = times(q_p, W1_p) + b1_p
    X2_p, slope = gelu_and_slope(times(k_p, W1_p) + b1_p, False)
    X2_p = X2_p.to(X2_j.dtype).to(tl.float32)
    x, rstd = normalize(times(X2_p, W2_p) + b2_p, D, 1)
    G, _, _ = inner_gradient(x, rstd, k_p, v_p, weight, bias, D, 1)
    S2_p = (eta_p * G).to(S2_j.dtype).to(tl.float32)
    S1_p = (tl.sum(W2_p * S2_p, 1)[None, :] * slope).to(S1_j.dtype).to(tl.float32)

    x_read = gelu(z_read - t_p * (earlier + read(q_p, k_p, S1_p)), False)
    earlier = read(x_read, X2_j, S2_j)
    z_read = times(x_read, W2_p) + b2_p
    x, _ = normalize(z_read - t_p * (earlier + read(x_read, X2_p, S2_p)), D, 1)
    tl.store(y + lane * D + d, q_p + bias + weight * x)
    tl.store(X1 + place * D + d, k_p)
    tl.store(S1 + place * E + e, S1_p)
    tl.store(X2 + place * E + e, X2_p)
    tl.store(S2 + place * D + d, S2_p)

    tl.debug_barrier()  # all threads have read W, b and place; all will see the new rows
    tl.store(places + lane, (place + 1) % M)
    if place == M - 1:
        f = forgotten(log_keep, sequence, head)
        step(W1, b1, operand1, X1, S1, t_p, W0, 0, head, f, D, E, M, ROWS, BLOCK)
        step(W2, b2, operand2, X2, S2, t_p, W0, 2, head, f, E, D, M, ROWS, BLOCK)


@triton.jit
def token(x, sequence, head, d, inside):
    """The token's row of q, k or v, (1, D) float32; x: the tensor and strides, without tokens'."""
    at = sequence.to(tl.int64) * x[1][0] + head * x[1][1] + d * x[1][2]
    return tl.load(x[0] + at, inside, 0.0).to(tl.float32)


@triton.jit
def times(x, W):
    """x W of one row x, float32."""
    return tl.sum(tl.sum(x, 0)[:, None] * W, 0, keep_dims=True)  # the inner sum is of one


@triton.jit
def read(x, X, S):
    """sum_j (x X_j + 1) S_j over the rows of X and S, where x is one row, float32."""
    return tl.sum((tl.sum(X * x, 1, keep_dims=True) + 1) * S, 0, keep_dims=True)


@triton.jit
def forgotten(log_keep, sequence, head):
    """1 - g of the token's forget gate, if there is one; log_keep: the tensor and strides."""
    f = 0.0
    if log_keep is not None:
        at = sequence.to(tl.int64) * log_keep[1][0] + head * log_keep[1][1]
        f = lost(tl.load(log_keep[0] + at))
    return f


@triton.jit
def step(
    W, b, operand, X, S, scale, W0, layer: tl.constexpr, head, f,
    IN: tl.constexpr, OUT: tl.constexpr, M: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The step of a full mini-batch, W -= scale X^T S and b -= scale sum S, block by block of W.

    W (IN, OUT), b (OUT), the operand that tokens read for W, X (M, IN), S (M, OUT). With a forget
    gate W -= f (W - W0) after that; W0 and b0 are W0[layer] and W0[layer + 1], of all heads.
    """
    j = tl.arange(0, ROWS)[:, None]
    for start in range(0, OUT, BLOCK):
        o = start + tl.arange(0, BLOCK)
        S_o = tl.load(S + j * OUT + o, (j < M) & (o < OUT), 0.0)
        b_o = tl.load(b + o, o < OUT) - scale * tl.sum(S_o.to(tl.float32), 0)
        if W0 is not None:
            b_o -= f * (b_o - tl.load(W0[layer + 1] + head * OUT + o, o < OUT))
        tl.store(b + o, b_o, o < OUT)
        for first in range(0, IN, BLOCK):
            i = first + tl.arange(0, BLOCK)
            X_i = tl.load(X + j * IN + i, (j < M) & (i < IN), 0.0)
            at, inside = (i * OUT)[:, None] + o, (i < IN)[:, None] & (o < OUT)
            product = tl.dot(tl.trans(X_i), S_o, input_precision="tf32x3")
            W_io = tl.load(W + at, inside) - scale * product
            if W0 is not None:
                W_io -= f * (W_io - tl.load(W0[layer] + head * IN * OUT + at, inside))
            tl.debug_barrier()  # threads may write other elements than they have read
            tl.store(W + at, W_io, inside)
            if operand.dtype != W.dtype:
                tl.store(operand + at, W_io, inside)
