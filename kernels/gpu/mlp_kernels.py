"""The kernels of TTT-MLP on a GPU; mlp.py launches them.

Formulas and names are those of dual/mlp.py and dual/backward.py: X hidden rows of the writers, Y of
the readers, U = S2 W2^T, dX the gradient with respect to X. Hidden tiles are (HS, M), units down
and tokens across: units fill the warps, which 16 tokens cannot. Others are (M, D), W (HS, D).

The state of one head, 2 D E floats, is as large as half of a multiprocessor's registers. The
resident kernels keep it there. The streamed kernels keep it in global memory, in practice in L2,
and take HS hidden units at a time, twice in a mini-batch: up to Z2, whose norm needs all of them,
and from there on.

Backward has a part in which mini-batches do not wait for one another (`backward_readers_kernel`),
the chain through the states (`backward_resident_kernel` or `backward_streamed_kernel`), and the
rest of dk (`backward_keys_kernel`). Forward saves the weights at the start of each mini-batch as
they were multiplied, so a second computation rounds the same way.

`gate` is None, or 1 - g by token, its strides and W0. With it the chain only scales dW by g, and
`backward_gate_kernel` has the rest. Unless CAUSAL, R_ij is -t_M for all tokens of a mini-batch:
that is the read after its step, from the same products.

S sequences, H heads, D head dim, E hidden units, M mini-batch size, N mini-batches in all.
"""

import triton
import triton.language as tl

from .shared import (
    gelu,
    gelu_and_slope,
    gelu_slope_curvature,
    inner_adjoint,
    inner_gradient,
    normalize,
    of_head,
    project,
)


@triton.jit
def dot(a, b, acc=None):
    """a @ b; three passes of tf32 where they are float32, so that nearly all digits count."""
    return tl.dot(a, b, acc, input_precision="tf32x3")


@triton.jit
def tile(rows: tl.constexpr, columns: tl.constexpr, down, across):
    """Offsets of a tile, given its two strides."""
    return tl.arange(0, rows)[:, None] * down + tl.arange(0, columns)[None, :] * across


@triton.jit
def token_range(token_ranges, sequence):
    """First token of a sequence, and last plus one."""
    token_ranges += sequence * 2
    return tl.load(token_ranges).to(tl.int64), tl.load(token_ranges + 1).to(tl.int64)


@triton.jit
def load_tokens(x, strides, start, count, M: tl.constexpr, D: tl.constexpr):
    """Tokens start, start + 1, ... of one head, (M, D), zeros from the count-th on."""
    at = tile(M, D, strides[1], strides[3])
    return tl.load(x + start * strides[1] + at, mask=tl.arange(0, M)[:, None] < count, other=0.0)


@triton.jit
def store_tokens(x, strides, start, count, value, M: tl.constexpr, D: tl.constexpr):
    at = tile(M, D, strides[1], strides[3])
    tl.store(x + start * strides[1] + at, value, mask=tl.arange(0, M)[:, None] < count)


@triton.jit
def load_rates(eta, strides, start, count, M: tl.constexpr):
    """eta of tokens start, start + 1, ..., (M, 1), zeros from the count-th on."""
    m = tl.arange(0, M)[:, None]
    return tl.load(eta + start * strides[1] + m * strides[1], mask=m < count, other=0.0)


@triton.jit
def load_norm(norm_weight, norm_bias, head, D: tl.constexpr):
    """norm_weight and norm_bias of one head, (1, D)."""
    d = head * D + tl.arange(0, D)[None, :]
    return tl.load(norm_weight + d), tl.load(norm_bias + d)


@triton.jit
def last_scale(token_scale, count, M: tl.constexpr):
    """The factor of the step; 0 for a mini-batch that ends open, which takes none."""
    return tl.where(count >= M, tl.load(token_scale + M - 1), 0.0)


@triton.jit
def read_scales(token_scale, M: tl.constexpr, CAUSAL: tl.constexpr):
    """The factors of the readers, (1, M)."""
    if CAUSAL:
        return tl.load(token_scale + tl.arange(0, M))[None, :]
    else:
        return tl.zeros([1, M], tl.float32) + tl.load(token_scale + M - 1)


@triton.jit
def readable(x, M: tl.constexpr, CAUSAL: tl.constexpr):
    """x (writers, readers), 0 where the writer is after the reader and CAUSAL."""
    if CAUSAL:
        x = tl.where(tl.arange(0, M)[:, None] <= tl.arange(0, M)[None, :], x, 0.0)
    return x


@triton.jit
def forgotten(gate, sequence, head, start, count, M: tl.constexpr):
    """The share of W - W0 that goes after a mini-batch; 0 where it ends open."""
    at = of_head(gate[0], gate[1], sequence, head) + (start + M - 1) * gate[1][1]
    return tl.load(at, mask=count >= M, other=0.0)


@triton.jit
def kept(gate, sequence, head, start, count, M: tl.constexpr):
    """g of a mini-batch, or None without a gate."""
    if gate is None:
        return None
    else:
        return 1 - forgotten(gate, sequence, head, start, count, M)


@triton.jit
def scaled(x, keep):
    if keep is not None:
        x *= keep
    return x


@triton.jit
def hidden_rows(w1, bias1, w2, K, Q, S2, mix1, FAST: tl.constexpr):
    """X, gelu'(Z1), gelu''(Z1) o U, S1 and Z1b of a slice of hidden units."""
    X, slope, curve = gelu_slope_curvature(dot(w1, tl.trans(K)) + bias1, FAST)
    U = dot(w2, tl.trans(S2))
    S1 = (U * slope).to(w1.dtype)
    Z1b = dot(S1, mix1, dot(w1, tl.trans(Q))) + bias1
    return X.to(w1.dtype), slope, curve * U, S1, Z1b


@triton.jit(repr=lambda _: "ttt_mlp_forward_resident")
def forward_resident_kernel(
    q, k, v, eta, token_scale, norm_weight, norm_bias, weights, token_ranges, y, after, open_rows,
    copies, first, gate, H, q_strides, k_strides, v_strides, eta_strides, y_strides,
    D: tl.constexpr, E: tl.constexpr, M: tl.constexpr, CAUSAL: tl.constexpr, SAVE: tl.constexpr,
):  # fmt: skip
    """One program: one head of one sequence, the state, float32, in registers.

    If SAVE, `copies` get W1 and W2 as they are multiplied, and b1 and b2, of all mini-batches.
    """
    program = tl.program_id(0).to(tl.int64)
    sequence, head = program // H, program % H
    q, k = of_head(q, q_strides, sequence, head), of_head(k, k_strides, sequence, head)
    v, eta = of_head(v, v_strides, sequence, head), of_head(eta, eta_strides, sequence, head)
    y = of_head(y, y_strides, sequence, head)
    OP: tl.constexpr = q.dtype.element_ty
    FAST: tl.constexpr = q.dtype.element_ty == tl.bfloat16
    d, e = tl.arange(0, D), tl.arange(0, E)
    at1, at2 = tile(E, D, 1, E), tile(E, D, D, 1)
    begin, end = token_range(token_ranges, sequence)
    if SAVE:
        number = tl.load(first + sequence) * H + head
    w1 = tl.load(weights[0] + program * D * E + at1)
    bias1 = tl.load(weights[1] + program * E + e)
    w2 = tl.load(weights[2] + program * D * E + at2)
    bias2 = tl.load(weights[3] + program * D + d)
    for start in tl.range(begin, end, M, disable_licm=True):
        count = (end - start).to(tl.int32)
        w1_, w2_ = w1.to(OP), w2.to(OP)
        if SAVE:
            tl.store(copies[0] + number * D * E + at1, w1_)
            tl.store(copies[1] + number * D * E + at2, w2_)
            tl.store(copies[2] + number * E + e, bias1)
            tl.store(copies[3] + number * D + d, bias2)
            number += H
        K = load_tokens(k, k_strides, start, count, M, D)
        Q = load_tokens(q, q_strides, start, count, M, D)
        KQ = tl.reshape(tl.permute(tl.join(K, Q), [2, 0, 1]), [2 * M, D])
        Z = dot(w1_, tl.trans(KQ)) + bias1[:, None]  # one product, so w1_ is soon forgotten
        Z1, Z1b = tl.split(tl.permute(tl.reshape(Z, [E, 2, M]), [0, 2, 1]))
        X, slope = gelu_and_slope(Z1, FAST)
        X = X.to(OP)
        x, rstd = normalize(dot(tl.trans(X), w2_) + bias2[None, :], D, 1)

        V = load_tokens(v, v_strides, start, count, M, D).to(tl.float32)
        weight, bias = load_norm(norm_weight, norm_bias, head, D)
        G2 = inner_gradient(x, rstd, K.to(tl.float32), V, weight, bias, D, 1)[0]
        S2 = (load_rates(eta, eta_strides, start, count, M) * G2).to(OP)
        scale = read_scales(token_scale, M, CAUSAL)
        last = last_scale(token_scale, count, M)
        mix1 = readable(-scale * (dot(K, tl.trans(Q)) + 1), M, CAUSAL).to(OP)
        S1 = (dot(w2_, tl.trans(S2)) * slope).to(OP)
        Y = gelu(dot(S1, mix1, Z1b), FAST).to(OP)
        w1 = dot(S1, (-last * K).to(OP), w1)
        bias1 -= last * tl.sum(S1.to(tl.float32), 1)
        mix2 = tl.trans(readable(-scale * (tl.trans(dot(tl.trans(Y), X)) + 1), M, CAUSAL)).to(OP)
        Zb = dot(tl.trans(Y), w2_) + bias2[None, :]
        w2 = dot(X, (-last * S2).to(OP), w2)
        bias2 -= last * tl.sum(S2.to(tl.float32), 0)
        x = normalize(dot(mix2, S2, Zb), D, 1)[0]
        store_tokens(y, y_strides, start, count, Q.to(tl.float32) + weight * x + bias, M, D)

        if count < M:
            at = program * M * E + tile(E, M, 1, E)
            tl.store(open_rows[0] + at, X, mask=tl.arange(0, M)[None, :] < count)
            tl.store(open_rows[1] + at, S1, mask=tl.arange(0, M)[None, :] < count)
            tl.store(open_rows[2] + program * M * D + tile(M, D, D, 1), S2)
        if gate is not None:
            forget = forgotten(gate, sequence, head, start, count, M)
            w1 -= forget * (w1 - tl.load(gate[2][0] + head * D * E + at1))
            bias1 -= forget * (bias1 - tl.load(gate[2][1] + head * E + e))
            w2 -= forget * (w2 - tl.load(gate[2][2] + head * D * E + at2))
            bias2 -= forget * (bias2 - tl.load(gate[2][3] + head * D + d))
    tl.store(after[0] + program * D * E + at1, w1)
    tl.store(after[1] + program * E + e, bias1)
    tl.store(after[2] + program * D * E + at2, w2)
    tl.store(after[3] + program * D + d, bias2)


@triton.jit(repr=lambda _: "ttt_mlp_forward_streamed")
def forward_streamed_kernel(
    q, k, v, eta, token_scale, norm_weight, norm_bias, weights, token_ranges, y, after, open_rows,
    copies, first, gate, H, q_strides, k_strides, v_strides, eta_strides, y_strides,
    D: tl.constexpr, E: tl.constexpr, M: tl.constexpr, CAUSAL: tl.constexpr, SAVE: tl.constexpr,
    HS: tl.constexpr,
):  # fmt: skip
    """As forward_resident_kernel, the state in `after`, and W1, W2 as multiplied in `copies`.

    These hold one mini-batch only, unless SAVE.
    """
    program = tl.program_id(0).to(tl.int64)
    sequence, head = program // H, program % H
    q, k = of_head(q, q_strides, sequence, head), of_head(k, k_strides, sequence, head)
    v, eta = of_head(v, v_strides, sequence, head), of_head(eta, eta_strides, sequence, head)
    y = of_head(y, y_strides, sequence, head)
    OP: tl.constexpr = q.dtype.element_ty
    FAST: tl.constexpr = q.dtype.element_ty == tl.bfloat16
    d, hs = tl.arange(0, D), tl.arange(0, HS)
    at1, at2 = tile(HS, D, 1, E), tile(HS, D, D, 1)
    W1, b1 = after[0] + program * D * E, after[1] + program * E
    W2, b2 = after[2] + program * D * E, after[3] + program * D
    begin, end = token_range(token_ranges, sequence)
    number = program
    if SAVE:
        number = tl.load(first + sequence) * H + head
    tl.store(b2 + d, tl.load(weights[3] + program * D + d))
    for h in tl.range(0, E, HS):
        w1 = tl.load(weights[0] + program * D * E + h + at1)
        w2 = tl.load(weights[2] + program * D * E + h * D + at2)
        tl.store(W1 + h + at1, w1)
        tl.store(W2 + h * D + at2, w2)
        tl.store(b1 + h + hs, tl.load(weights[1] + program * E + h + hs))
        if begin < end:
            tl.store(copies[0] + number * D * E + h + at1, w1)
            tl.store(copies[1] + number * D * E + h * D + at2, w2)
    tl.debug_barrier()

    for start in tl.range(begin, end, M, disable_licm=True):
        count = (end - start).to(tl.int32)
        W1_, W2_ = copies[0] + number * D * E, copies[1] + number * D * E
        K = load_tokens(k, k_strides, start, count, M, D)
        bias2 = tl.load(b2 + d)
        Z2 = tl.zeros([M, D], tl.float32) + bias2[None, :]
        for h in tl.range(0, E, HS, disable_licm=True):
            w1_, w2_ = tl.load(W1_ + h + at1), tl.load(W2_ + h * D + at2)
            bias1 = tl.load(b1 + h + hs)
            if SAVE:
                tl.store(copies[2] + number * E + h + hs, bias1)
            X = gelu(dot(w1_, tl.trans(K)) + bias1[:, None], FAST).to(OP)
            Z2 = dot(tl.trans(X), w2_, Z2)
        if SAVE:
            tl.store(copies[3] + number * D + d, bias2)
            number += H

        V = load_tokens(v, v_strides, start, count, M, D).to(tl.float32)
        weight, bias = load_norm(norm_weight, norm_bias, head, D)
        x, rstd = normalize(Z2, D, 1)
        G2 = inner_gradient(x, rstd, K.to(tl.float32), V, weight, bias, D, 1)[0]
        S2 = (load_rates(eta, eta_strides, start, count, M) * G2).to(OP)
        Q = load_tokens(q, q_strides, start, count, M, D)
        scale = read_scales(token_scale, M, CAUSAL)
        mix1 = readable(-scale * (dot(K, tl.trans(Q)) + 1), M, CAUSAL).to(OP)
        last = last_scale(token_scale, count, M)
        if gate is not None:
            forget = forgotten(gate, sequence, head, start, count, M)
        K_step, S2_step = (-last * K).to(OP), (-last * S2).to(OP)

        Zb = tl.zeros([M, D], tl.float32) + bias2[None, :]
        A2 = tl.zeros([M, M], tl.float32)
        for h in tl.range(0, E, HS, disable_licm=True):
            w1_, w2_ = tl.load(W1_ + h + at1), tl.load(W2_ + h * D + at2)
            bias1 = tl.load(b1 + h + hs)
            X, _, _, S1, Z1b = hidden_rows(w1_, bias1[:, None], w2_, K, Q, S2, mix1, FAST)
            Y = gelu(Z1b, FAST).to(OP)
            Zb = dot(tl.trans(Y), w2_, Zb)
            A2 = dot(tl.trans(X), Y, A2)
            w1 = dot(S1, K_step, tl.load(W1 + h + at1))
            w2 = dot(X, S2_step, tl.load(W2 + h * D + at2))
            bias1 -= last * tl.sum(S1.to(tl.float32), 1)
            tl.debug_barrier()  # all threads have read the slice
            if gate is not None:
                w1 -= forget * (w1 - tl.load(gate[2][0] + head * D * E + h + at1))
                bias1 -= forget * (bias1 - tl.load(gate[2][1] + head * E + h + hs))
                w2 -= forget * (w2 - tl.load(gate[2][2] + head * D * E + h * D + at2))
            tl.store(W1 + h + at1, w1)
            tl.store(W2 + h * D + at2, w2)
            tl.store(b1 + h + hs, bias1)
            if count > M:
                tl.store(copies[0] + number * D * E + h + at1, w1)
                tl.store(copies[1] + number * D * E + h * D + at2, w2)
            if count < M:
                at = program * M * E + h + tile(HS, M, 1, E)
                tl.store(open_rows[0] + at, X, mask=tl.arange(0, M)[None, :] < count)
                tl.store(open_rows[1] + at, S1, mask=tl.arange(0, M)[None, :] < count)

        mix2 = readable(-scale * (A2 + 1), M, CAUSAL).to(OP)
        x = normalize(dot(tl.trans(mix2), S2, Zb), D, 1)[0]
        store_tokens(y, y_strides, start, count, Q.to(tl.float32) + weight * x + bias, M, D)
        if count < M:
            tl.store(open_rows[2] + program * M * D + tile(M, D, D, 1), S2)
        bias2 -= last * tl.sum(S2.to(tl.float32), 0)
        if gate is not None:
            bias2 -= forget * (bias2 - tl.load(gate[2][3] + head * D + d))
        tl.store(b2 + d, bias2)
        tl.debug_barrier()  # all of the state is written


@triton.jit
def hidden_planes(x, program, SIZE: tl.constexpr):
    """Pointers to X, gelu'(Z1), gelu''(Z1) o U, S1, Y, dZ1b, dU, dZ1 of a mini-batch of a head."""
    x += program * 8 * SIZE
    return (
        x, x + SIZE, x + 2 * SIZE, x + 3 * SIZE,
        x + 4 * SIZE, x + 5 * SIZE, x + 6 * SIZE, x + 7 * SIZE,
    )  # fmt: skip


@triton.jit(repr=lambda _: "ttt_mlp_backward_readers")
def backward_readers_kernel(
    dy, dopen, q, k, v, eta, token_scale, norm_weight, norm_bias, copies, token_ranges, starts,
    dq, dscale, dnorm, hidden, rounded, exact, H,
    dy_strides, q_strides, k_strides, v_strides, eta_strides, dq_strides,
    D: tl.constexpr, E: tl.constexpr, M: tl.constexpr, CAUSAL: tl.constexpr, HS: tl.constexpr,
):  # fmt: skip
    """One program: the gradients of one mini-batch of one head, except through later states.

    The chain needs of it `hidden`, (8, E, M); `rounded`, S2 and dZb; and `exact`, Z2, dS2 and dk as
    far as known here, (M, D) each.
    """
    program = tl.program_id(0).to(tl.int64)
    head = program % H
    sequence, start = tl.load(starts + program // H * 2), tl.load(starts + program // H * 2 + 1)
    end = token_range(token_ranges, sequence)[1]
    if start >= end:
        return
    count = (end - start).to(tl.int32)
    q, k = of_head(q, q_strides, sequence, head), of_head(k, k_strides, sequence, head)
    v, eta = of_head(v, v_strides, sequence, head), of_head(eta, eta_strides, sequence, head)
    OP: tl.constexpr = q.dtype.element_ty
    FAST: tl.constexpr = q.dtype.element_ty == tl.bfloat16
    K, Q = (
        load_tokens(k, k_strides, start, count, M, D),
        load_tokens(q, q_strides, start, count, M, D),
    )
    d, hs = tl.arange(0, D), tl.arange(0, HS)
    at1, at2, at = tile(HS, D, 1, E), tile(HS, D, D, 1), tile(HS, M, M, 1)
    W1, W2 = copies[0] + program * D * E, copies[1] + program * D * E
    b1, b2 = copies[2] + program * E, copies[3] + program * D
    X_, slope_, bend_, S1_, Y_, dZ1b_, dU_, dZ1_ = hidden_planes(hidden, program, E * M)
    rounded += program * 2 * D * M + tile(M, D, D, 1)
    exact += program * 3 * D * M + tile(M, D, D, 1)

    Z2 = tl.zeros([M, D], tl.float32) + tl.load(b2 + d)[None, :]
    for h in tl.range(0, E, HS, disable_licm=True):
        bias1 = tl.load(b1 + h + hs)[:, None]
        X = gelu(dot(tl.load(W1 + h + at1), tl.trans(K)) + bias1, FAST).to(OP)
        Z2 = dot(tl.trans(X), tl.load(W2 + h * D + at2), Z2)
    V = load_tokens(v, v_strides, start, count, M, D).to(tl.float32)
    weight, bias = load_norm(norm_weight, norm_bias, head, D)
    x, rstd = normalize(Z2, D, 1)
    G2 = inner_gradient(x, rstd, K.to(tl.float32), V, weight, bias, D, 1)[0]
    S2 = (load_rates(eta, eta_strides, start, count, M) * G2).to(OP)
    tl.store(rounded, S2)
    tl.store(exact, Z2)

    scale = read_scales(token_scale, M, CAUSAL)
    A1 = readable(dot(K, tl.trans(Q)) + 1, M, CAUSAL)
    mix1 = (-scale * A1).to(OP)
    Zb = tl.zeros([M, D], tl.float32) + tl.load(b2 + d)[None, :]
    A2 = tl.zeros([M, M], tl.float32)
    for h in tl.range(0, E, HS, disable_licm=True):
        w1, w2 = tl.load(W1 + h + at1), tl.load(W2 + h * D + at2)
        bias1 = tl.load(b1 + h + hs)[:, None]
        X, slope, bend, S1, Z1b = hidden_rows(w1, bias1, w2, K, Q, S2, mix1, FAST)
        Y, slope_read = gelu_and_slope(Z1b, FAST)
        Y = Y.to(OP)
        tl.store(X_ + h * M + at, X)
        tl.store(slope_ + h * M + at, slope)
        tl.store(bend_ + h * M + at, bend)
        tl.store(S1_ + h * M + at, S1)
        tl.store(Y_ + h * M + at, Y)
        tl.store(dZ1b_ + h * M + at, slope_read)  # dZ1b takes its place
        Zb = dot(tl.trans(Y), w2, Zb)
        A2 = dot(tl.trans(X), Y, A2)

    tl.debug_barrier()  # these rows are read by other threads
    A2 = readable(A2 + 1, M, CAUSAL)
    mix2 = (-scale * A2).to(OP)
    x, rstd = normalize(dot(tl.trans(mix2), S2, Zb), D, 1)
    dy = of_head(dy, dy_strides, sequence, head)
    dQ = load_tokens(dy, dy_strides, start, count, M, D).to(tl.float32)
    tl.store(dnorm + program * 2 * D + d, tl.sum(dQ * x, 0))
    tl.store(dnorm + program * 2 * D + D + d, tl.sum(dQ, 0))
    dZb = (rstd * project(weight * dQ, x, D, 1)[0]).to(OP)
    tl.store(rounded + D * M, dZb)
    N2 = dot(S2, tl.trans(dZb))
    dA2 = readable(-scale * N2, M, CAUSAL).to(OP)
    through2 = tl.sum(A2 * N2, 0)
    open_row = sequence * H + head
    opened = tl.where(count < M, count, 0)  # of these tokens, dopen has gradients
    dS2 = tl.load(
        dopen[2] + open_row * M * D + tile(M, D, D, 1),
        mask=tl.arange(0, M)[:, None] < opened, other=0.0,
    )  # fmt: skip
    dS2 = dot(mix2, dZb, dS2)

    N1 = tl.zeros([M, M], tl.float32)
    for h in tl.range(0, E, HS, disable_licm=True):
        w1, w2 = tl.load(W1 + h + at1), tl.load(W2 + h * D + at2)
        dY = dot(tl.load(X_ + h * M + at), dA2, dot(w2, tl.trans(dZb)))
        dZ1b = (dY * tl.load(dZ1b_ + h * M + at).to(tl.float32)).to(OP)
        N1 = dot(tl.trans(tl.load(S1_ + h * M + at)), dZ1b, N1)
        dQ = dot(tl.trans(dZ1b), w1, dQ)
        open_at = open_row * M * E + h + tile(HS, M, 1, E)
        open_mask = tl.arange(0, M)[None, :] < opened
        Y = tl.load(Y_ + h * M + at)
        dX = dot(Y, tl.trans(dA2), tl.load(dopen[0] + open_at, mask=open_mask, other=0.0))
        dS1 = dot(dZ1b, tl.trans(mix1), tl.load(dopen[1] + open_at, mask=open_mask, other=0.0))
        slope = tl.load(slope_ + h * M + at).to(tl.float32)
        bend = tl.load(bend_ + h * M + at).to(tl.float32)
        dU = (slope * dS1).to(OP)
        dS2 = dot(tl.trans(dU), w2, dS2)
        tl.store(dZ1b_ + h * M + at, dZ1b)
        tl.store(dU_ + h * M + at, dU)
        tl.store(dZ1_ + h * M + at, slope * dX + bend * dS1)

    dA1 = readable(-scale * N1, M, CAUSAL).to(OP)
    tl.store(dscale + program * M + tl.arange(0, M), -tl.sum(A1 * N1, 0) - through2)
    tl.store(exact + D * M, dS2)
    tl.store(exact + 2 * D * M, dot(dA1, Q))
    dq = of_head(dq, dq_strides, sequence, head)
    store_tokens(dq, dq_strides, start, count, dot(tl.trans(dA1), K, dQ), M, D)


@triton.jit(repr=lambda _: "ttt_mlp_backward_resident")
def backward_resident_kernel(
    q, k, v, eta, token_scale, norm_weight, norm_bias, copies, token_ranges, first, gate,
    dv, deta, dlast, dnorm, dweights, hidden, rounded, exact, H,
    q_strides, k_strides, v_strides, eta_strides, dv_strides, deta_strides,
    D: tl.constexpr, E: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """One program: the chain of one head of one sequence, gradients of its state in registers.

    `dweights`, float32, are changed in place; so are dZ1 in `hidden` and dk in `exact`, and with a
    gate dU in `hidden`; dZ2 takes the place of Z2 in `exact`.
    """
    program = tl.program_id(0).to(tl.int64)
    sequence, head = program // H, program % H
    q, k = of_head(q, q_strides, sequence, head), of_head(k, k_strides, sequence, head)
    v, eta = of_head(v, v_strides, sequence, head), of_head(eta, eta_strides, sequence, head)
    dv = of_head(dv, dv_strides, sequence, head)
    deta = of_head(deta, deta_strides, sequence, head)
    OP: tl.constexpr = q.dtype.element_ty
    d, m, e = tl.arange(0, D), tl.arange(0, M)[:, None], tl.arange(0, E)
    at1, at2, at = tile(E, D, 1, E), tile(E, D, D, 1), tile(E, M, M, 1)
    dW1, db1 = dweights[0] + program * D * E, dweights[1] + program * E
    dW2, db2 = dweights[2] + program * D * E, dweights[3] + program * D
    dw1, dw2 = tl.load(dW1 + at1), tl.load(dW2 + at2)
    dbias1, dbias2 = tl.load(db1 + e), tl.load(db2 + d)
    dnorm_weight, dnorm_bias = tl.zeros([D], tl.float32), tl.zeros([D], tl.float32)
    dlast1, dlast2 = tl.zeros([E], tl.float32), tl.zeros([D], tl.float32)
    begin, end = token_range(token_ranges, sequence)
    n = (end - begin + M - 1) // M
    for i in tl.range(0, n, disable_licm=True):
        start = begin + (n - 1 - i) * M
        count = (end - start).to(tl.int32)
        here = (tl.load(first + sequence) + n - 1 - i) * H + head
        X_, slope_, bend_, S1_, Y_, dZ1b_, dU_, dZ1_ = hidden_planes(hidden, here, E * M)
        W2 = copies[1] + here * D * E
        S2_ = rounded + here * 2 * D * M + tile(M, D, D, 1)
        Z2_ = exact + here * 3 * D * M + tile(M, D, D, 1)
        last = last_scale(token_scale, count, M)
        closed = tl.where(count >= M, 1.0, 0.0)
        K = load_tokens(k, k_strides, start, count, M, D)
        S2 = tl.load(S2_)
        keep = kept(gate, sequence, head, start, count, M)
        dw1, dbias1 = scaled(dw1, keep), scaled(dbias1, keep)
        dw2, dbias2 = scaled(dw2, keep), scaled(dbias2, keep)

        dw2_ = dw2.to(OP)
        XdW = dot(tl.trans(tl.load(X_ + at)), dw2_) + dbias2[None, :]
        dlast2 += closed * tl.sum(S2.to(tl.float32) * XdW, 0)
        slope = tl.load(slope_ + at).to(tl.float32)
        dX = -last * dot(dw2_, tl.trans(S2))
        dZ1 = (tl.load(dZ1_ + at) + slope * dX).to(OP)
        dZb = tl.load(S2_ + D * M)
        dw2 = dot(tl.load(Y_ + at), dZb, dw2)
        tl.debug_barrier()  # or loads below would come first and take registers

        dw1_, S1 = dw1.to(OP), tl.load(S1_ + at)
        dk = tl.load(Z2_ + 2 * D * M) - last * dot(tl.trans(S1), dw1_)
        dS1 = dot(dw1_, tl.trans(K)) + dbias1[:, None]
        dlast1 += closed * tl.sum(S1.to(tl.float32) * dS1, 1)
        dS1 *= -last
        dZ1 = (dZ1 + dS1 * tl.load(bend_ + at).to(tl.float32)).to(OP)
        dU = dS1 * slope
        dS2 = dot(tl.trans(dU.to(OP)), tl.load(W2 + at2), tl.load(Z2_ + D * M))
        dU = (tl.load(dU_ + at) + dU).to(OP)
        dw2 = dot(dU, S2, dw2)
        dZ1b = tl.load(dZ1b_ + at)
        dw1 = dot(dZ1b, load_tokens(q, q_strides, start, count, M, D), dw1)
        tl.debug_barrier()
        if gate is not None:
            tl.store(dU_ + at, dU)

        V = load_tokens(v, v_strides, start, count, M, D).to(tl.float32)
        rate = load_rates(eta, eta_strides, start, count, M)
        weight, bias = load_norm(norm_weight, norm_bias, head, D)
        x, rstd = normalize(tl.load(Z2_), D, 1)
        G2, f, mean_xp = inner_gradient(x, rstd, K.to(tl.float32), V, weight, bias, D, 1)
        dp, dZ2, drate = inner_adjoint(dS2 - last * XdW, G2, x, rstd, mean_xp, rate, weight, D, 1)
        dnorm_weight += tl.sum(dp * (f + weight * x), 0)
        dnorm_bias += tl.sum(weight * dp, 0)
        store_tokens(dv, dv_strides, start, count, -weight * dp, M, D)
        tl.store(deta + start * deta_strides[1] + m * deta_strides[1], drate, mask=m < count)
        tl.store(Z2_ + 2 * D * M, dk + weight * dp)
        dbias2 += tl.sum(dZ2 + dZb.to(tl.float32), 0)
        if gate is not None:
            tl.store(Z2_, dZ2)
        dZ2 = dZ2.to(OP)

        dX = dot(tl.load(W2 + at2), tl.trans(dZ2))
        dZ1 = (dZ1 + tl.load(slope_ + at).to(tl.float32) * dX).to(OP)
        tl.store(dZ1_ + at, dZ1)
        dw1 = dot(dZ1, K, dw1)
        dw2 = dot(tl.load(X_ + at), dZ2, dw2)
        dbias1 += tl.sum(dZ1.to(tl.float32) + tl.load(dZ1b_ + at).to(tl.float32), 1)
    tl.store(dW1 + at1, dw1)
    tl.store(db1 + e, dbias1)
    tl.store(dW2 + at2, dw2)
    tl.store(db2 + d, dbias2)
    tl.store(dlast + program, -tl.sum(dlast1, 0) - tl.sum(dlast2, 0))
    tl.store(dnorm + program * 2 * D + d, dnorm_weight)
    tl.store(dnorm + program * 2 * D + D + d, dnorm_bias)


@triton.jit(repr=lambda _: "ttt_mlp_backward_streamed")
def backward_streamed_kernel(
    q, k, v, eta, token_scale, norm_weight, norm_bias, copies, token_ranges, first, gate,
    dv, deta, dlast, dnorm, dweights, hidden, rounded, exact, H,
    q_strides, k_strides, v_strides, eta_strides, dv_strides, deta_strides,
    D: tl.constexpr, E: tl.constexpr, M: tl.constexpr, HS: tl.constexpr,
):  # fmt: skip
    """As backward_resident_kernel, the gradients of the state in `dweights`."""
    program = tl.program_id(0).to(tl.int64)
    sequence, head = program // H, program % H
    q, k = of_head(q, q_strides, sequence, head), of_head(k, k_strides, sequence, head)
    v, eta = of_head(v, v_strides, sequence, head), of_head(eta, eta_strides, sequence, head)
    dv = of_head(dv, dv_strides, sequence, head)
    deta = of_head(deta, deta_strides, sequence, head)
    OP: tl.constexpr = q.dtype.element_ty
    d, m, hs = tl.arange(0, D), tl.arange(0, M)[:, None], tl.arange(0, HS)
    at1, at2, at = tile(HS, D, 1, E), tile(HS, D, D, 1), tile(HS, M, M, 1)
    dW1, db1 = dweights[0] + program * D * E, dweights[1] + program * E
    dW2, db2 = dweights[2] + program * D * E, dweights[3] + program * D
    dbias2 = tl.load(db2 + d)
    dnorm_weight, dnorm_bias = tl.zeros([D], tl.float32), tl.zeros([D], tl.float32)
    dlast1, dlast2 = tl.zeros([HS], tl.float32), tl.zeros([D], tl.float32)
    begin, end = token_range(token_ranges, sequence)
    n = (end - begin + M - 1) // M
    for i in tl.range(0, n, disable_licm=True):
        start = begin + (n - 1 - i) * M
        count = (end - start).to(tl.int32)
        here = (tl.load(first + sequence) + n - 1 - i) * H + head
        X_, slope_, bend_, S1_, Y_, dZ1b_, dU_, dZ1_ = hidden_planes(hidden, here, E * M)
        W2 = copies[1] + here * D * E
        S2_ = rounded + here * 2 * D * M + tile(M, D, D, 1)
        Z2_ = exact + here * 3 * D * M + tile(M, D, D, 1)
        last = last_scale(token_scale, count, M)
        closed = tl.where(count >= M, 1.0, 0.0)
        K = load_tokens(k, k_strides, start, count, M, D)
        S2 = tl.load(S2_)
        keep = kept(gate, sequence, head, start, count, M)
        dbias2 = scaled(dbias2, keep)

        dS2 = tl.load(Z2_ + D * M)
        XdW = tl.zeros([M, D], tl.float32) + dbias2[None, :]
        for h in tl.range(0, E, HS, disable_licm=True):
            dw1 = scaled(tl.load(dW1 + h + at1), keep).to(OP)
            dw2 = scaled(tl.load(dW2 + h * D + at2), keep).to(OP)
            KdW = dot(dw1, tl.trans(K)) + scaled(tl.load(db1 + h + hs), keep)[:, None]
            dlast1 += closed * tl.sum(tl.load(S1_ + h * M + at).to(tl.float32) * KdW, 1)
            dS1 = -last * KdW
            dU = dS1 * tl.load(slope_ + h * M + at).to(tl.float32)
            tl.store(dU_ + h * M + at, tl.load(dU_ + h * M + at) + dU)
            dZ1 = dS1 * tl.load(bend_ + h * M + at).to(tl.float32)
            tl.store(dZ1_ + h * M + at, tl.load(dZ1_ + h * M + at) + dZ1)
            dS2 = dot(tl.trans(dU.to(OP)), tl.load(W2 + h * D + at2), dS2)
            XdW = dot(tl.trans(tl.load(X_ + h * M + at)), dw2, XdW)
        tl.debug_barrier()  # dU and dZ1 are read by other threads
        dlast2 += closed * tl.sum(S2.to(tl.float32) * XdW, 0)

        V = load_tokens(v, v_strides, start, count, M, D).to(tl.float32)
        rate = load_rates(eta, eta_strides, start, count, M)
        weight, bias = load_norm(norm_weight, norm_bias, head, D)
        x, rstd = normalize(tl.load(Z2_), D, 1)
        G2, f, mean_xp = inner_gradient(x, rstd, K.to(tl.float32), V, weight, bias, D, 1)
        dp, dZ2, drate = inner_adjoint(dS2 - last * XdW, G2, x, rstd, mean_xp, rate, weight, D, 1)
        dnorm_weight += tl.sum(dp * (f + weight * x), 0)
        dnorm_bias += tl.sum(weight * dp, 0)
        store_tokens(dv, dv_strides, start, count, -weight * dp, M, D)
        tl.store(deta + start * deta_strides[1] + m * deta_strides[1], drate, mask=m < count)
        tl.store(Z2_ + 2 * D * M, tl.load(Z2_ + 2 * D * M) + weight * dp)
        Q, dZb = load_tokens(q, q_strides, start, count, M, D), tl.load(S2_ + D * M)
        dbias2 += tl.sum(dZ2 + dZb.to(tl.float32), 0)
        if gate is not None:
            tl.store(Z2_, dZ2)
        dZ2 = dZ2.to(OP)

        SdW = tl.zeros([M, D], tl.float32)
        for h in tl.range(0, E, HS, disable_licm=True):
            dw1 = scaled(tl.load(dW1 + h + at1), keep)
            dw2 = scaled(tl.load(dW2 + h * D + at2), keep)
            dX = dot(tl.load(W2 + h * D + at2), tl.trans(dZ2))
            dX -= last * dot(dw2.to(OP), tl.trans(S2))
            dZ1 = tl.load(dZ1_ + h * M + at) + tl.load(slope_ + h * M + at) * dX
            dZ1, dZ1b = dZ1.to(OP), tl.load(dZ1b_ + h * M + at)
            SdW = dot(tl.trans(tl.load(S1_ + h * M + at)), dw1.to(OP), SdW)
            dw1 = dot(dZ1, K, dot(dZ1b, Q, dw1))
            dw2 = dot(tl.load(X_ + h * M + at), dZ2, dw2)
            dw2 = dot(tl.load(Y_ + h * M + at), dZb, dw2)
            dw2 = dot(tl.load(dU_ + h * M + at), S2, dw2)
            dbias1 = scaled(tl.load(db1 + h + hs), keep)
            dbias1 += tl.sum(dZ1.to(tl.float32) + dZ1b.to(tl.float32), 1)
            tl.debug_barrier()  # all threads have read the slice
            tl.store(dZ1_ + h * M + at, dZ1)
            tl.store(dW1 + h + at1, dw1)
            tl.store(dW2 + h * D + at2, dw2)
            tl.store(db1 + h + hs, dbias1)
        tl.debug_barrier()  # and written it
        tl.store(Z2_ + 2 * D * M, tl.load(Z2_ + 2 * D * M) - last * SdW)
    tl.store(db2 + d, dbias2)
    tl.store(dlast + program, -tl.sum(dlast1, 0) - tl.sum(dlast2, 0))
    tl.store(dnorm + program * 2 * D + d, dnorm_weight)
    tl.store(dnorm + program * 2 * D + D + d, dnorm_bias)


@triton.jit(repr=lambda _: "ttt_mlp_backward_keys")
def backward_keys_kernel(
    hidden, exact, copies, token_ranges, starts, dk, H, dk_strides,
    D: tl.constexpr, E: tl.constexpr, M: tl.constexpr, HS: tl.constexpr,
):  # fmt: skip
    """One program: dk of one mini-batch of one head, the part in `exact` plus dZ1 W1^T."""
    program = tl.program_id(0).to(tl.int64)
    head = program % H
    sequence, start = tl.load(starts + program // H * 2), tl.load(starts + program // H * 2 + 1)
    end = token_range(token_ranges, sequence)[1]
    if start >= end:
        return
    dZ1 = hidden + (program * 8 + 7) * E * M + tile(HS, M, M, 1)
    W1 = copies[0] + program * D * E + tile(HS, D, 1, E)
    dK = tl.load(exact + (program * 3 + 2) * D * M + tile(M, D, D, 1))
    for h in tl.range(0, E, HS):
        dK = dot(tl.trans(tl.load(dZ1 + h * M)), tl.load(W1 + h), dK)
    dk = of_head(dk, dk_strides, sequence, head)
    store_tokens(dk, dk_strides, start, (end - start).to(tl.int32), dK, M, D)


@triton.jit(repr=lambda _: "ttt_mlp_backward_gate")
def backward_gate_kernel(
    q, k, token_scale, copies, token_ranges, first, gate, dafter, dkeep, dstart,
    hidden, rounded, exact, H, q_strides, k_strides, dkeep_strides,
    D: tl.constexpr, E: tl.constexpr, M: tl.constexpr, HS: tl.constexpr,
):  # fmt: skip
    """One program: the gradients of W0 and log g from HS hidden units of one head of one sequence.

    It walks dW a second time, from the rows that the chain left. With V the weights after a step,
    dV = g dW: dlog g = <dV, V - W0> and dW0 = sum (1 - g) dW. V is made from the weights before,
    so that the smaller g is, the less their rounding counts; nothing is divided by g.
    """
    program, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    sequence, head = program // H, program % H
    q, k = of_head(q, q_strides, sequence, head), of_head(k, k_strides, sequence, head)
    dkeep = of_head(dkeep, dkeep_strides, sequence, head) + part
    OP: tl.constexpr = q.dtype.element_ty
    d, h = tl.arange(0, D), part * HS + tl.arange(0, HS)
    at1, at2 = h[:, None] + d[None, :] * E, h[:, None] * D + d[None, :]
    at = h[:, None] * M + tl.arange(0, M)[None, :]
    start1, start_bias1 = (
        tl.load(gate[2][0] + head * D * E + at1),
        tl.load(gate[2][1] + head * E + h),
    )
    start2, start_bias2 = (
        tl.load(gate[2][2] + head * D * E + at2),
        tl.load(gate[2][3] + head * D + d),
    )
    dw1, dbias1 = tl.load(dafter[0] + program * D * E + at1), tl.load(dafter[1] + program * E + h)
    dw2, dbias2 = tl.load(dafter[2] + program * D * E + at2), tl.load(dafter[3] + program * D + d)
    dstart1, dstart_bias1 = tl.zeros_like(dw1), tl.zeros_like(dbias1)
    dstart2, dstart_bias2 = tl.zeros_like(dw2), tl.zeros_like(dbias2)
    begin, end = token_range(token_ranges, sequence)
    n = (end - begin + M - 1) // M
    for i in tl.range(0, n, disable_licm=True):
        start = begin + (n - 1 - i) * M
        count = (end - start).to(tl.int32)
        here = (tl.load(first + sequence) + n - 1 - i) * H + head
        X_, _, _, S1_, Y_, dZ1b_, dU_, dZ1_ = hidden_planes(hidden, here, E * M)
        S2_ = rounded + here * 2 * D * M + tile(M, D, D, 1)
        last = last_scale(token_scale, count, M)
        forget = forgotten(gate, sequence, head, start, count, M)
        K, Q = (
            load_tokens(k, k_strides, start, count, M, D),
            load_tokens(q, q_strides, start, count, M, D),
        )
        X, S1, S2 = tl.load(X_ + at), tl.load(S1_ + at), tl.load(S2_)

        dstart1, dstart_bias1 = dstart1 + forget * dw1, dstart_bias1 + forget * dbias1
        dstart2, dstart_bias2 = dstart2 + forget * dw2, dstart_bias2 + forget * dbias2
        dw1, dbias1 = (1 - forget) * dw1, (1 - forget) * dbias1
        dw2, dbias2 = (1 - forget) * dw2, (1 - forget) * dbias2
        v1 = tl.load(copies[0] + here * D * E + at1).to(tl.float32) - start1
        v2 = tl.load(copies[1] + here * D * E + at2).to(tl.float32) - start2
        v1, v2 = dot(S1, (-last * K).to(OP), v1), dot(X, (-last * S2).to(OP), v2)
        v_bias1 = tl.load(copies[2] + here * E + h) - start_bias1
        v_bias1 -= last * tl.sum(S1.to(tl.float32), 1)
        v_bias2 = tl.load(copies[3] + here * D + d) - start_bias2
        v_bias2 -= last * tl.sum(S2.to(tl.float32), 0)
        by_unit = tl.sum(dw1 * v1 + dw2 * v2, 1) + dbias1 * v_bias1
        by_feature = tl.where(part == 0, dbias2 * v_bias2, 0.0)
        to = dkeep + (start + M - 1) * dkeep_strides[1]
        tl.store(to, tl.sum(by_unit, 0) + tl.sum(by_feature, 0), mask=count >= M)

        dZ1b, dZ1 = tl.load(dZ1b_ + at), tl.load(dZ1_ + at)
        dZb, dZ2 = tl.load(S2_ + D * M), tl.load(exact + here * 3 * D * M + tile(M, D, D, 1))
        dw1 = dot(dZ1, K, dot(dZ1b, Q, dw1))
        dw2 = dot(tl.load(Y_ + at), dZb, dot(X, dZ2.to(OP), dw2))
        dw2 = dot(tl.load(dU_ + at), S2, dw2)
        dbias1 += tl.sum(dZ1.to(tl.float32) + dZ1b.to(tl.float32), 1)
        dbias2 += tl.sum(dZ2 + dZb.to(tl.float32), 0)
    tl.store(dstart[0] + program * D * E + at1, dstart1)
    tl.store(dstart[1] + program * E + h, dstart_bias1)
    tl.store(dstart[2] + program * D * E + at2, dstart2)
    tl.store(dstart[3] + program * D + d, dstart_bias2, mask=part == 0)
