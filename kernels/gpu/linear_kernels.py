"""The kernels of TTT-Linear on a GPU; linear.py launches them.

Formulas and names are those of dual/linear.py and dual/backward.py. The state, row statistics and
sums are float32; operands of products are rounded to the dtype of q. S = eta G is rounded once: the
same numbers update the state, are read, are kept for backward and are returned. The ones in Q and K
that stand for the bias are not in the tiles: Q K^T is q k^T + 1 here, and b is apart from W.

Without a forget gate backward keeps no states: the one before a mini-batch is W + t_M K^T S of the
one after. With it that would divide by g. So forward saves W - W0 before every mini-batch and after
the last, in the dtype of q, and backward loads W0 + (W - W0). It also gives the gate's gradient,
<dW, W - W0>. That of W0 is the sum of (1 - g) dW, which is dW after all tokens less dW before them
plus all that the mini-batches add, Q^T dZb + K^T dZ.

CAUSAL is False where every token of a mini-batch reads after the step of the whole mini-batch.

A plan is one kernel, `sweep`, where its tiles fit into registers. Otherwise there are several, with
tiles of ROWS tokens:

    writers   the chain from mini-batch to mini-batch: S and the weights; in backward dZ, dv, deta
              and the gradient of the weights
    readers   y; in backward dq, dZb and the writers' Z. M / ROWS programs for each sequence and
              head; with S known, a state is only a sum. After the writers; in backward before them
    keys      dZ W^T, the rest of dk, and Q^T dZb + K^T dZ if there is a gate; only in backward

AXIS is the axis of a tile along which its features lie. With 1 a tile is tokens x features and W is
in x out; with 0 every matrix is held transposed, and since (A B)^T = B^T A^T each product swaps its
operands. On most GPUs the warps of a block split the first axis of a matrix instruction; with only
16 tokens on that axis several warps compute the same values. On Hopper and Blackwell they do not.

B batch, T tokens, H heads, S sequences, D head dim, M mini-batch size.
"""

import triton
import triton.language as tl

from .shared import (
    inner_adjoint,
    inner_gradient,
    lost,
    normalize,
    normalize_both,
    of_head,
    project,
)


@triton.jit
def this_sequence(token_ranges, T, H):
    """The program's number, its head, and batch, first token and number of its tokens."""
    program = tl.program_id(0).to(tl.int64)
    if token_ranges is None:
        return program, program % H, program // H, tl.cast(0, tl.int64), T
    else:
        token_ranges += 2 * (program // H)
        begin, end = tl.load(token_ranges), tl.load(token_ranges + 1)
        return program, program % H, tl.cast(0, tl.int64), begin.to(tl.int64), end - begin


@triton.jit
def place(rows, row_stride, columns, column_stride, AXIS: tl.constexpr):
    """Offsets of a tile of rows x columns; with 1 and -1 the distance of a row from a column."""
    return (
        tl.expand_dims(rows, AXIS) * row_stride + tl.expand_dims(columns, 1 - AXIS) * column_stride
    )


@triton.jit
def inside(rows, row_count, columns, column_count: tl.constexpr, AXIS: tl.constexpr):
    """The mask of the first row_count x column_count elements of a tile."""
    mask = tl.expand_dims(rows, AXIS) < row_count
    if columns.shape[0] != column_count:
        mask = mask & (tl.expand_dims(columns, 1 - AXIS) < column_count)
    return mask


@triton.jit
def product(a, b, AXIS: tl.constexpr):
    """a @ b, float32, of matrices that are all held transposed if AXIS is 0."""
    if AXIS == 1:
        return tl.dot(a, b, input_precision="tf32x3")
    else:
        return tl.dot(b, a, input_precision="tf32x3")


@triton.jit
def load_row(x, D: tl.constexpr, AXIS: tl.constexpr):
    """One row of features, for broadcasting over tokens."""
    features = tl.arange(0, triton.next_power_of_2(D))
    return tl.expand_dims(tl.load(x + features, features < D, 0.0), 1 - AXIS)


@triton.jit
def store_row(x, value, D: tl.constexpr, AXIS: tl.constexpr):
    features = tl.expand_dims(tl.arange(0, triton.next_power_of_2(D)), 1 - AXIS)
    tl.store(x + features, value, features < D)


@triton.jit
def load_norm(norm_weight, norm_bias, head, D: tl.constexpr, AXIS: tl.constexpr):
    """norm_weight and norm_bias of one head, as rows."""
    return load_row(norm_weight + head * D, D, AXIS), load_row(norm_bias + head * D, D, AXIS)


@triton.jit
def load_state(weights, program, D: tl.constexpr, AXIS: tl.constexpr):
    """W and b, a row, of one head of one sequence."""
    features = tl.arange(0, triton.next_power_of_2(D))
    at = place(features, D, features, 1, AXIS)
    W = tl.load(weights[0] + program * D * D + at, inside(features, D, features, D, AXIS), 0.0)
    return W, load_row(weights[1] + program * D, D, AXIS)


@triton.jit
def store_state(weights, program, W, b, D: tl.constexpr, AXIS: tl.constexpr):
    features = tl.arange(0, triton.next_power_of_2(D))
    at = place(features, D, features, 1, AXIS)
    tl.store(weights[0] + program * D * D + at, W, inside(features, D, features, D, AXIS))
    store_row(weights[1] + program * D, b, D, AXIS)


@triton.jit
def load_rates(eta, stride, first, begin, tokens, length, AXIS: tl.constexpr):
    """eta of some tokens of the sequence, for broadcasting over features; 0 from `length` on."""
    rates = tl.load(eta + (first + begin + tokens) * stride, begin + tokens < length, 0.0)
    return tl.expand_dims(rates, AXIS)


@triton.jit
def step(W, b, K, S, scale, AXIS: tl.constexpr):
    """[W; b] + scale [K, 1]^T S."""
    W += scale * product(tl.trans(K), S, AXIS)
    b += scale * tl.sum(S.to(tl.float32), 1 - AXIS, keep_dims=True)
    return W, b


@triton.jit
def load_memory(seen, number, W0, head, D: tl.constexpr, AXIS: tl.constexpr):
    """W and b, as W0 + (W - W0)."""
    W, b = load_state(W0, head, D, AXIS)
    W_seen, b_seen = load_state(seen, number, D, AXIS)
    return W + W_seen, b + b_seen


@triton.jit
def save_memory(seen, number, W, b, W0, head, D: tl.constexpr, AXIS: tl.constexpr):
    W_start, b_start = load_state(W0, head, D, AXIS)
    store_state(seen, number, W - W_start, b - b_start, D, AXIS)


@triton.jit
def first_memory(token_ranges, program, begin, T, H, M: tl.constexpr):
    """The number in `seen` of the state before a sequence and head; the next one is H later."""
    if token_ranges is None:
        return program // H * (T // M + 1) * H + program % H
    else:
        return (program // H * 2 + begin // M) * H + program % H


@triton.jit
def keep(W, b, W0, head, log_keep, D: tl.constexpr, AXIS: tl.constexpr):
    """[W; b] after the forget gate at `log_keep`, W - f (W - W0) with f = 1 - g."""
    W_start, b_start = load_state(W0, head, D, AXIS)
    f = lost(tl.load(log_keep))
    return W - f * (W - W_start), b - f * (b - b_start)


@triton.jit
def write(K, V, rates, W, b, norm_weight, norm_bias, D: tl.constexpr, AXIS: tl.constexpr):
    """S = eta G of a tile of writers."""
    x, rstd = normalize(product(K, W, AXIS) + b, D, AXIS)
    k, v = K.to(tl.float32), V.to(tl.float32)
    G, _, _ = inner_gradient(x, rstd, k, v, norm_weight, norm_bias, D, AXIS)
    return (rates * G).to(K.dtype)


@triton.jit
def read(Q, K, S, W, b, reads, causal, norm_weight, norm_bias, D: tl.constexpr, AXIS: tl.constexpr):
    """y of a tile of readers that reads from a tile of writers."""
    mix = tl.where(causal, product(Q, tl.trans(K), AXIS) + 1, 0.0)
    z = product(Q, W, AXIS) + b + product((reads * mix).to(K.dtype), S, AXIS)
    x, _ = normalize(z, D, AXIS)
    return Q.to(tl.float32) + norm_bias + norm_weight * x


@triton.jit
def read_after(Q, W, b, norm_weight, norm_bias, D: tl.constexpr, AXIS: tl.constexpr):
    """y of a tile of readers that read after the step of their mini-batch."""
    x, _ = normalize(product(Q, W.to(Q.dtype), AXIS) + b, D, AXIS)
    return Q.to(tl.float32) + norm_bias + norm_weight * x


@triton.jit(do_not_specialize=["T"], repr=lambda _: "ttt_linear_forward_sweep")
def forward_sweep_kernel(
    q, k, v, eta, token_scale, norm_weight, norm_bias, log_keep, weights, W0, token_ranges, y,
    after, open_rows, steps, seen, T, H, q_strides, k_strides, v_strides, eta_strides,
    D: tl.constexpr, M: tl.constexpr, CAUSAL: tl.constexpr, ROWS: tl.constexpr, AXIS: tl.constexpr,
    STAGES: tl.constexpr, LICM: tl.constexpr,
):  # fmt: skip
    """One program: one head of one sequence, mini-batch by mini-batch, W and b in registers.

    ROWS is M. `steps`, if there are any, get S of all tokens, `open_rows` those of the open ones.
    `seen` gets W - W0 for backward; with `log_keep` and `W0` it is None without a forget gate.
    """
    program, head, batch, begin, length = this_sequence(token_ranges, T, H)
    tokens, features = tl.arange(0, M), tl.arange(0, triton.next_power_of_2(D))
    ahead = place(tokens, 1, tokens, -1, AXIS)
    reads = -tl.expand_dims(tl.load(token_scale + tokens), AXIS)
    last_scale = tl.load(token_scale + M - 1)
    norm_weight, norm_bias = load_norm(norm_weight, norm_bias, head, D, AXIS)
    W, b = load_state(weights, program, D, AXIS)
    at_q = place(tokens, q_strides[1], features, q_strides[3], AXIS)
    at_k = place(tokens, k_strides[1], features, k_strides[3], AXIS)
    at_v = place(tokens, v_strides[1], features, v_strides[3], AXIS)
    at = place(tokens, H * D, features, 1, AXIS)
    q, k = of_head(q, q_strides, batch, head), of_head(k, k_strides, batch, head)
    v, eta = of_head(v, v_strides, batch, head), of_head(eta, eta_strides, batch, head)
    memory = first_memory(token_ranges, program, begin, T, H, M)
    if seen is not None:
        save_memory(seen, memory, W, b, W0, head, D, AXIS)

    for i in tl.range(0, tl.cdiv(length, M), num_stages=STAGES, disable_licm=not LICM):
        start = i * M
        to = ((batch * T + begin + start) * H + head) * D
        mask = inside(tokens, length - start, features, D, AXIS)
        K = tl.load(k + (begin + start) * k_strides[1] + at_k, mask, 0.0)
        W_read = W.to(K.dtype)
        V = tl.load(v + (begin + start) * v_strides[1] + at_v, mask, 0.0)
        rates = load_rates(eta, eta_strides[1], begin, start, tokens, length, AXIS)
        S = write(K, V, rates, W_read, b, norm_weight, norm_bias, D, AXIS)
        if steps is not None:
            tl.store(steps + to + at, S, mask)
        Q = tl.load(q + (begin + start) * q_strides[1] + at_q, mask, 0.0)
        if CAUSAL:
            out = read(Q, K, S, W_read, b, reads, ahead >= 0, norm_weight, norm_bias, D, AXIS)
            tl.store(y + to + at, out, mask)
        if start + M <= length:
            W, b = step(W, b, K, S, -last_scale, AXIS)
            if not CAUSAL:
                tl.store(y + to + at, read_after(Q, W, b, norm_weight, norm_bias, D, AXIS), mask)
            if log_keep is not None:
                fills = (batch * T + begin + start + M - 1) * H + head
                W, b = keep(W, b, W0, head, log_keep + fills, D, AXIS)
            if seen is not None:
                save_memory(seen, memory + (i + 1) * H, W, b, W0, head, D, AXIS)
        else:
            at_open = program * M * D + place(tokens, D, features, 1, AXIS)
            tl.store(open_rows + at_open, S.to(tl.float32), mask)

    store_state(after, program, W, b, D, AXIS)


@triton.jit(do_not_specialize=["T"], repr=lambda _: "ttt_linear_forward_writers")
def forward_writers_kernel(
    q, k, v, eta, token_scale, norm_weight, norm_bias, log_keep, weights, W0, token_ranges, y,
    after, open_rows, steps, seen, T, H, q_strides, k_strides, v_strides, eta_strides,
    D: tl.constexpr, M: tl.constexpr, CAUSAL: tl.constexpr, ROWS: tl.constexpr, AXIS: tl.constexpr,
    STAGES: tl.constexpr, LICM: tl.constexpr,
):  # fmt: skip
    """One program: S, open rows and final weights of one head of one sequence, by ROWS tokens."""
    program, head, batch, begin, length = this_sequence(token_ranges, T, H)
    writers, features = tl.arange(0, ROWS), tl.arange(0, triton.next_power_of_2(D))
    last_scale = tl.load(token_scale + M - 1)
    norm_weight, norm_bias = load_norm(norm_weight, norm_bias, head, D, AXIS)
    W, b = load_state(weights, program, D, AXIS)
    at_k = place(writers, k_strides[1], features, k_strides[3], AXIS)
    at_v = place(writers, v_strides[1], features, v_strides[3], AXIS)
    at = place(writers, H * D, features, 1, AXIS)
    k, v = of_head(k, k_strides, batch, head), of_head(v, v_strides, batch, head)
    eta = of_head(eta, eta_strides, batch, head)
    memory = first_memory(token_ranges, program, begin, T, H, M)
    if seen is not None:
        save_memory(seen, memory, W, b, W0, head, D, AXIS)

    W_read, b_read = W.to(k.dtype.element_ty), b
    for i in tl.range(0, tl.cdiv(length, ROWS), num_stages=STAGES, disable_licm=not LICM):
        w = i * ROWS
        start = w // M * M if ROWS < M else w
        to = ((batch * T + begin + w) * H + head) * D
        mask = inside(writers, length - w, features, D, AXIS)
        K = tl.load(k + (begin + w) * k_strides[1] + at_k, mask, 0.0)
        if ROWS == M:
            W_read, b_read = W.to(K.dtype), b
        else:
            if w == start:
                W_read, b_read = W.to(K.dtype), b
        V = tl.load(v + (begin + w) * v_strides[1] + at_v, mask, 0.0)
        rates = load_rates(eta, eta_strides[1], begin, w, writers, length, AXIS)
        S = write(K, V, rates, W_read, b_read, norm_weight, norm_bias, D, AXIS)
        tl.store(steps + to + at, S, mask)
        if start + M <= length:
            W, b = step(W, b, K, S, -last_scale, AXIS)
            if log_keep is not None:
                fills = (batch * T + begin + w + ROWS - 1) * H + head
                if w + ROWS == start + M:
                    W, b = keep(W, b, W0, head, log_keep + fills, D, AXIS)
                    if seen is not None:
                        save_memory(seen, memory + (start // M + 1) * H, W, b, W0, head, D, AXIS)
        else:
            at_open = program * M * D + place(w - start + writers, D, features, 1, AXIS)
            tl.store(open_rows + at_open, S.to(tl.float32), mask)

    store_state(after, program, W, b, D, AXIS)


@triton.jit(do_not_specialize=["T"], repr=lambda _: "ttt_linear_forward_readers")
def forward_readers_kernel(
    q, k, v, eta, token_scale, norm_weight, norm_bias, log_keep, weights, W0, token_ranges, y,
    after, open_rows, steps, seen, T, H, q_strides, k_strides, v_strides, eta_strides,
    D: tl.constexpr, M: tl.constexpr, CAUSAL: tl.constexpr, ROWS: tl.constexpr, AXIS: tl.constexpr,
    STAGES: tl.constexpr, LICM: tl.constexpr,
):  # fmt: skip
    """One program: y of the same ROWS places in each mini-batch of one head of one sequence."""
    program, head, batch, begin, length = this_sequence(token_ranges, T, H)
    readers, writers = tl.arange(0, ROWS), tl.arange(0, M)
    features = tl.arange(0, triton.next_power_of_2(D))
    ahead = place(readers, 1, writers, -1, AXIS)
    block = tl.program_id(1) * ROWS if ROWS < M else 0
    reads = -tl.expand_dims(tl.load(token_scale + block + readers), AXIS)
    last_scale = tl.load(token_scale + M - 1)
    norm_weight, norm_bias = load_norm(norm_weight, norm_bias, head, D, AXIS)
    W, b = load_state(weights, program, D, AXIS)
    at_q = place(readers, q_strides[1], features, q_strides[3], AXIS)
    at_k = place(writers, k_strides[1], features, k_strides[3], AXIS)
    at_reader = place(readers, H * D, features, 1, AXIS)
    at_writer = place(writers, H * D, features, 1, AXIS)
    q, k = of_head(q, q_strides, batch, head), of_head(k, k_strides, batch, head)

    for i in tl.range(0, tl.cdiv(length, M), num_stages=STAGES, disable_licm=not LICM):
        start = i * M
        r = start + block
        to_writer = ((batch * T + begin + start) * H + head) * D
        to_reader = ((batch * T + begin + r) * H + head) * D
        in_writer = inside(writers, length - start, features, D, AXIS)
        in_reader = inside(readers, length - r, features, D, AXIS)
        K = tl.load(k + (begin + start) * k_strides[1] + at_k, in_writer, 0.0)
        S = tl.load(steps + to_writer + at_writer, in_writer, 0.0)
        Q = tl.load(q + (begin + r) * q_strides[1] + at_q, in_reader, 0.0)
        if CAUSAL:
            causal = ahead >= start - r
            out = read(Q, K, S, W.to(K.dtype), b, reads, causal, norm_weight, norm_bias, D, AXIS)
            tl.store(y + to_reader + at_reader, out, in_reader)
        if start + M <= length:
            W, b = step(W, b, K, S, -last_scale, AXIS)
            if not CAUSAL:
                out = read_after(Q, W, b, norm_weight, norm_bias, D, AXIS)
                tl.store(y + to_reader + at_reader, out, in_reader)
            if log_keep is not None:
                fills = (batch * T + begin + start + M - 1) * H + head
                W, b = keep(W, b, W0, head, log_keep + fills, D, AXIS)


@triton.jit
def reads_backward(dz_read, S, mix, reads, causal, AXIS: tl.constexpr):
    """Gradients of mix (readers x writers), rounded, and of -token_scale at the readers."""
    dread = product(dz_read, tl.trans(S), AXIS)
    dmix = tl.where(causal, reads * dread, 0.0).to(S.dtype)
    return dmix, tl.sum(mix * dread, AXIS, keep_dims=True)


@triton.jit
def write_backward(
    dS, K, V, rates, x, rstd, norm_weight, norm_bias, D: tl.constexpr, AXIS: tl.constexpr
):
    """Gradients of v - k, of z, rounded, of eta and, by token, of norm_weight, given that of S."""
    k, v = K.to(tl.float32), V.to(tl.float32)
    G, f, mean_xp = inner_gradient(x, rstd, k, v, norm_weight, norm_bias, D, AXIS)
    dp, dz, drates = inner_adjoint(dS, G, x, rstd, mean_xp, rates, norm_weight, D, AXIS)
    return dp * norm_weight, dz.to(K.dtype), drates, dp * (f + norm_weight * x)


@triton.jit(do_not_specialize=["T"], repr=lambda _: "ttt_linear_backward_sweep")
def backward_sweep_kernel(
    dy, dafter, dopen, q, k, v, eta, token_scale, norm_weight, norm_bias, log_keep, W0, after,
    steps, seen, token_ranges, dq, dk, dv, deta, dscale, dlast, dnorm, dkeep, dweights, dstart,
    dz_reads, zs, T, H, dy_strides, q_strides, k_strides, v_strides, eta_strides,
    D: tl.constexpr, M: tl.constexpr, CAUSAL: tl.constexpr, ROWS: tl.constexpr, AXIS: tl.constexpr,
    STAGES: tl.constexpr, LICM: tl.constexpr,
):  # fmt: skip
    """One program: all gradients of one head of one sequence; ROWS is M.

    Only for causal reads without a forget gate.
    """
    program, head, batch, begin, length = this_sequence(token_ranges, T, H)
    tokens, features = tl.arange(0, M), tl.arange(0, triton.next_power_of_2(D))
    ahead = place(tokens, 1, tokens, -1, AXIS)
    reads = -tl.expand_dims(tl.load(token_scale + tokens), AXIS)
    last_scale = tl.load(token_scale + M - 1)
    norm_weight, norm_bias = load_norm(norm_weight, norm_bias, head, D, AXIS)
    W, b = load_state(after, program, D, AXIS)
    dW, db = load_state(dafter, program, D, AXIS)
    at_dy = place(tokens, dy_strides[1], features, dy_strides[3], AXIS)
    at_q = place(tokens, q_strides[1], features, q_strides[3], AXIS)
    at_k = place(tokens, k_strides[1], features, k_strides[3], AXIS)
    at_v = place(tokens, v_strides[1], features, v_strides[3], AXIS)
    at = place(tokens, H * D, features, 1, AXIS)
    dy, q = of_head(dy, dy_strides, batch, head), of_head(q, q_strides, batch, head)
    k, v = of_head(k, k_strides, batch, head), of_head(v, v_strides, batch, head)
    eta = of_head(eta, eta_strides, batch, head)
    dnorm_weight, dnorm_bias = tl.zeros_like(b), tl.zeros_like(b)
    dtoken_scale = tl.zeros_like(reads)
    dlast_rows = tl.expand_dims(tl.zeros(tokens.shape, tl.float32), AXIS)

    count = tl.cdiv(length, M)
    for i in tl.range(0, count, num_stages=STAGES, disable_licm=not LICM):
        start = (count - 1 - i) * M
        to = ((batch * T + begin + start) * H + head) * D
        mask = inside(tokens, length - start, features, D, AXIS)
        scale = tl.where(start + M > length, 0.0, last_scale)  # an open mini-batch takes no step
        K = tl.load(k + (begin + start) * k_strides[1] + at_k, mask, 0.0)
        S = tl.load(steps + to + at, mask, 0.0)
        Q = tl.load(q + (begin + start) * q_strides[1] + at_q, mask, 0.0)
        causal = ahead >= 0
        mix = tl.where(causal, product(Q, tl.trans(K), AXIS) + 1, 0.0)
        mix_read = (reads * mix).to(Q.dtype)

        dW_read = dW.to(K.dtype)
        dstep = product(K, dW_read, AXIS) + db
        dlast_rows -= tl.where(start + M > length, 0.0, tl.sum(S * dstep, AXIS, keep_dims=True))
        dK = -scale * product(S, tl.trans(dW_read), AXIS)
        W, b = step(W, b, K, S, scale, AXIS)
        W_read = W.to(K.dtype)

        dY = tl.load(dy + (begin + start) * dy_strides[1] + at_dy, mask, 0.0).to(tl.float32)
        z = product(K, W_read, AXIS) + b
        z_read = product(Q, W_read, AXIS) + b + product(mix_read, S, AXIS)
        x, rstd, x_read, rstd_read = normalize_both(z, z_read, D, AXIS)
        dz, _ = project(norm_weight * dY, x_read, D, AXIS)
        dz_read = (rstd_read * dz).to(K.dtype)
        dmix, dreads = reads_backward(dz_read, S, mix, reads, causal, AXIS)
        dtoken_scale -= dreads
        dQ = dY + product(dmix, K, AXIS)

        mix_write, dmix_write = tl.trans(mix_read), tl.trans(dmix)  # early: fewer registers
        dK += product(dmix_write, Q, AXIS)
        dS = -scale * dstep
        if start + M > length:
            at_open = program * M * D + place(tokens, D, features, 1, AXIS)
            dS += tl.load(dopen + at_open, mask, 0.0)
        dS += product(mix_write, dz_read, AXIS)
        V = tl.load(v + (begin + start) * v_strides[1] + at_v, mask, 0.0)
        rates = load_rates(eta, eta_strides[1], begin, start, tokens, length, AXIS)
        dtarget, dz_write, drates, dnorm_writes = write_backward(
            dS, K, V, rates, x, rstd, norm_weight, norm_bias, D, AXIS
        )
        at_rate = tl.expand_dims((batch * T + begin + start + tokens) * H + head, AXIS)
        tl.store(deta + at_rate, drates, tl.expand_dims(start + tokens, AXIS) < length)
        tl.store(dv + to + at, -dtarget, mask)
        dnorm_weight += tl.sum(dY * x_read + dnorm_writes, 1 - AXIS, keep_dims=True)
        dnorm_bias += tl.sum(dY + dtarget, 1 - AXIS, keep_dims=True)

        dQ += product(dz_read, tl.trans(W_read), AXIS)
        tl.store(dq + to + at, dQ, mask)
        dK += dtarget + product(dz_write, tl.trans(W_read), AXIS)
        tl.store(dk + to + at, dK, mask)
        dW += product(tl.trans(Q), dz_read, AXIS)
        dW += product(tl.trans(K), dz_write, AXIS)
        dz = dz_read.to(tl.float32) + dz_write.to(tl.float32)
        db += tl.sum(dz, 1 - AXIS, keep_dims=True)

    store_state(dweights, program, dW, db, D, AXIS)
    tl.store(dlast + program, tl.sum(dlast_rows))
    tl.store(dscale + program * M + tl.expand_dims(tokens, AXIS), dtoken_scale)
    store_row(dnorm[0] + program * D, dnorm_weight, D, AXIS)
    store_row(dnorm[1] + program * D, dnorm_bias, D, AXIS)


@triton.jit(do_not_specialize=["T"], repr=lambda _: "ttt_linear_backward_readers")
def backward_readers_kernel(
    dy, dafter, dopen, q, k, v, eta, token_scale, norm_weight, norm_bias, log_keep, W0, after,
    steps, seen, token_ranges, dq, dk, dv, deta, dscale, dlast, dnorm, dkeep, dweights, dstart,
    dz_reads, zs, T, H, dy_strides, q_strides, k_strides, v_strides, eta_strides,
    D: tl.constexpr, M: tl.constexpr, CAUSAL: tl.constexpr, ROWS: tl.constexpr, AXIS: tl.constexpr,
    STAGES: tl.constexpr, LICM: tl.constexpr,
):  # fmt: skip
    """One program: dq of the same ROWS places in each mini-batch of one head of one sequence.

    Also stores what the writers read: Z of these tokens in `zs`, and dZb in `dz_reads`.
    """
    program, head, batch, begin, length = this_sequence(token_ranges, T, H)
    readers, writers = tl.arange(0, ROWS), tl.arange(0, M)
    features = tl.arange(0, triton.next_power_of_2(D))
    block = tl.program_id(1) * ROWS if ROWS < M else 0
    ahead = place(readers, 1, writers, -1, AXIS)
    reads = -tl.expand_dims(tl.load(token_scale + block + readers), AXIS)
    last_scale = tl.load(token_scale + M - 1)
    norm_weight = load_row(norm_weight + head * D, D, AXIS)
    if seen is None:
        W, b = load_state(after, program, D, AXIS)
    memory = first_memory(token_ranges, program, begin, T, H, M)
    at_dy = place(readers, dy_strides[1], features, dy_strides[3], AXIS)
    at_q = place(readers, q_strides[1], features, q_strides[3], AXIS)
    at_k = place(writers, k_strides[1], features, k_strides[3], AXIS)
    at_own = place(readers, k_strides[1], features, k_strides[3], AXIS)
    at_reader = place(readers, H * D, features, 1, AXIS)
    at_writer = place(writers, H * D, features, 1, AXIS)
    dy, q = of_head(dy, dy_strides, batch, head), of_head(q, q_strides, batch, head)
    k = of_head(k, k_strides, batch, head)
    dnorm_weight, dnorm_bias = tl.zeros_like(norm_weight), tl.zeros_like(norm_weight)
    dtoken_scale = tl.zeros_like(reads)

    count = tl.cdiv(length, M)
    for i in tl.range(0, count, num_stages=STAGES, disable_licm=not LICM):
        start = (count - 1 - i) * M
        r = start + block
        to_writer = ((batch * T + begin + start) * H + head) * D
        to_reader = ((batch * T + begin + r) * H + head) * D
        in_writer = inside(writers, length - start, features, D, AXIS)
        in_reader = inside(readers, length - r, features, D, AXIS)
        scale = tl.where(start + M > length, 0.0, last_scale)  # an open mini-batch takes no step
        K = tl.load(k + (begin + start) * k_strides[1] + at_k, in_writer, 0.0)
        S = tl.load(steps + to_writer + at_writer, in_writer, 0.0)
        Q = tl.load(q + (begin + r) * q_strides[1] + at_q, in_reader, 0.0)
        if CAUSAL:
            causal = ahead >= start - r
            mix = tl.where(causal, product(Q, tl.trans(K), AXIS) + 1, 0.0)
            mix_read = (reads * mix).to(Q.dtype)
        if seen is None:
            W_after, b_after = W, b
            W, b = step(W, b, K, S, scale, AXIS)
        else:
            W, b = load_memory(seen, memory + start // M * H, W0, head, D, AXIS)
            W_after, b_after = step(W, b, K, S, -scale, AXIS)
        W_read = W.to(K.dtype)

        K_own = K
        if ROWS < M:
            K_own = tl.load(k + (begin + r) * k_strides[1] + at_own, in_reader, 0.0)
        dY = tl.load(dy + (begin + r) * dy_strides[1] + at_dy, in_reader, 0.0).to(tl.float32)
        z = product(K_own, W_read, AXIS) + b
        if CAUSAL:
            z_read = product(Q, W_read, AXIS) + b + product(mix_read, S, AXIS)
        else:
            W_read = W_after.to(K.dtype)
            z_read = product(Q, W_read, AXIS) + b_after
        x_read, rstd_read = normalize(z_read, D, AXIS)
        dz, _ = project(norm_weight * dY, x_read, D, AXIS)
        dz_read = (rstd_read * dz).to(K.dtype)
        tl.store(zs + to_reader + at_reader, z, in_reader)
        tl.store(dz_reads + to_reader + at_reader, dz_read, in_reader)
        dQ = dY
        if CAUSAL:
            dmix, dreads = reads_backward(dz_read, S, mix, reads, causal, AXIS)
            dtoken_scale -= dreads
            dQ += product(dmix, K, AXIS)
        dQ += product(dz_read, tl.trans(W_read), AXIS)
        tl.store(dq + to_reader + at_reader, dQ, in_reader)
        dnorm_weight += tl.sum(dY * x_read, 1 - AXIS, keep_dims=True)
        dnorm_bias += tl.sum(dY, 1 - AXIS, keep_dims=True)

    at_token = program * M + block + tl.expand_dims(readers, AXIS)
    tl.store(dscale + at_token, dtoken_scale)
    part = program + tl.num_programs(0) * tl.program_id(1)
    store_row(dnorm[0] + part * D, dnorm_weight, D, AXIS)
    store_row(dnorm[1] + part * D, dnorm_bias, D, AXIS)


@triton.jit
def readers_backward(dW, db, q, dz_reads, mask, AXIS: tl.constexpr):
    """[dW; db] + [Q, 1]^T dZb of a mini-batch."""
    dz = tl.load(dz_reads, mask, 0.0)
    dW += product(tl.trans(tl.load(q, mask, 0.0)), dz, AXIS)
    return dW, db + tl.sum(dz.to(tl.float32), 1 - AXIS, keep_dims=True)


@triton.jit
def after_writers_backward(
    dW, db, log_keep, seen, number, dkeep, fills, full, q, dz_reads, mask,
    CAUSAL: tl.constexpr, D: tl.constexpr, AXIS: tl.constexpr,
):  # fmt: skip
    """The gradient after the step of a mini-batch, given the one before the next mini-batch.

    Between them are the forget gate, if there is one, at the token `fills` of full mini-batches,
    and readers that are not causal. Stores the gate's gradient, <dW, W - W0>.
    """
    if log_keep is not None:
        W_seen, b_seen = load_state(seen, number, D, AXIS)
        tl.store(dkeep + fills, tl.sum(dW * W_seen) + tl.sum(db * b_seen), full)
        f = lost(tl.load(log_keep + fills, full, 0.0))
        dW -= f * dW
        db -= f * db
    if not CAUSAL:
        dW, db = readers_backward(dW, db, q, dz_reads, mask, AXIS)
    return dW, db


@triton.jit(do_not_specialize=["T"], repr=lambda _: "ttt_linear_backward_writers")
def backward_writers_kernel(
    dy, dafter, dopen, q, k, v, eta, token_scale, norm_weight, norm_bias, log_keep, W0, after,
    steps, seen, token_ranges, dq, dk, dv, deta, dscale, dlast, dnorm, dkeep, dweights, dstart,
    dz_reads, zs, T, H, dy_strides, q_strides, k_strides, v_strides, eta_strides,
    D: tl.constexpr, M: tl.constexpr, CAUSAL: tl.constexpr, ROWS: tl.constexpr, AXIS: tl.constexpr,
    STAGES: tl.constexpr, LICM: tl.constexpr,
):  # fmt: skip
    """One program: the chain of one head of one sequence, by ROWS tokens: dv, deta, dW, part of dk.

    Overwrites Z in `zs` with dZ. Tiles of mix are writers x readers.
    """
    program, head, batch, begin, length = this_sequence(token_ranges, T, H)
    readers, writers = tl.arange(0, M), tl.arange(0, ROWS)
    features = tl.arange(0, triton.next_power_of_2(D))
    ahead = place(writers, -1, readers, 1, AXIS)
    reads = -tl.expand_dims(tl.load(token_scale + readers), 1 - AXIS)
    last_scale = tl.load(token_scale + M - 1)
    norm_weight, norm_bias = load_norm(norm_weight, norm_bias, head, D, AXIS)
    dW, db = load_state(dafter, program, D, AXIS)
    memory = first_memory(token_ranges, program, begin, T, H, M)
    at_q = place(readers, q_strides[1], features, q_strides[3], AXIS)
    at_k = place(writers, k_strides[1], features, k_strides[3], AXIS)
    at_v = place(writers, v_strides[1], features, v_strides[3], AXIS)
    at_own = place(writers, q_strides[1], features, q_strides[3], AXIS)
    at_reader = place(readers, H * D, features, 1, AXIS)
    at_writer = place(writers, H * D, features, 1, AXIS)
    q, k = of_head(q, q_strides, batch, head), of_head(k, k_strides, batch, head)
    v, eta = of_head(v, v_strides, batch, head), of_head(eta, eta_strides, batch, head)
    dnorm_weight, dnorm_bias = tl.zeros_like(db), tl.zeros_like(db)
    dlast_rows = tl.expand_dims(tl.zeros(writers.shape, tl.float32), AXIS)

    dW_read, db_read = dW.to(k.dtype.element_ty), db
    count = tl.cdiv(length, ROWS)
    for i in tl.range(0, count, num_stages=STAGES, disable_licm=not LICM):
        w = (count - 1 - i) * ROWS
        start = w // M * M if ROWS < M else w
        to_writer = ((batch * T + begin + w) * H + head) * D
        to_reader = ((batch * T + begin + start) * H + head) * D
        in_writer = inside(writers, length - w, features, D, AXIS)
        in_reader = inside(readers, length - start, features, D, AXIS)
        scale = tl.where(start + M > length, 0.0, last_scale)  # an open mini-batch takes no step
        K = tl.load(k + (begin + w) * k_strides[1] + at_k, in_writer, 0.0)
        S = tl.load(steps + to_writer + at_writer, in_writer, 0.0)
        q_rows = q + (begin + start) * q_strides[1] + at_q
        fills = (batch * T + begin + start + M - 1) * H + head
        if CAUSAL:
            Q = tl.load(q_rows, in_reader, 0.0)
            causal = ahead >= w - start
            mix = tl.where(causal, product(K, tl.trans(Q), AXIS) + 1, 0.0)
            mix_read = (reads * mix).to(Q.dtype)

        next_memory = memory + (start // M + tl.where(start + M > length, 0, 1)) * H
        if ROWS == M:
            dW, db = after_writers_backward(
                dW, db, log_keep, seen, next_memory, dkeep, fills, start + M <= length,
                q_rows, dz_reads + to_reader + at_reader, in_reader, CAUSAL, D, AXIS,
            )  # fmt: skip
            dW_read, db_read = dW.to(K.dtype), db
        else:
            if w % M == M - ROWS:
                dW, db = after_writers_backward(
                    dW, db, log_keep, seen, next_memory, dkeep, fills, start + M <= length,
                    q_rows, dz_reads + to_reader + at_reader, in_reader, CAUSAL, D, AXIS,
                )  # fmt: skip
                dW_read, db_read = dW.to(K.dtype), db
        dstep = product(K, dW_read, AXIS) + db_read
        dlast_rows -= tl.where(start + M > length, 0.0, tl.sum(S * dstep, AXIS, keep_dims=True))
        dK = -scale * product(S, tl.trans(dW_read), AXIS)

        z = tl.load(zs + to_writer + at_writer, in_writer, 0.0).to(tl.float32)
        x, rstd = normalize(z, D, AXIS)
        if CAUSAL:
            dz_read = tl.load(dz_reads + to_reader + at_reader, in_reader, 0.0)
            dmix = reads * product(S, tl.trans(dz_read), AXIS)
            dmix = tl.where(causal, dmix, 0.0).to(K.dtype)
            dK += product(dmix, Q, AXIS)
        dS = -scale * dstep
        if start + M > length:
            at_open = program * M * D + place(w - start + writers, D, features, 1, AXIS)
            dS += tl.load(dopen + at_open, in_writer, 0.0)
        if CAUSAL:
            dS += product(mix_read, dz_read, AXIS)
        V = tl.load(v + (begin + w) * v_strides[1] + at_v, in_writer, 0.0)
        rates = load_rates(eta, eta_strides[1], begin, w, writers, length, AXIS)
        dtarget, dz_write, drates, dnorm_writes = write_backward(
            dS, K, V, rates, x, rstd, norm_weight, norm_bias, D, AXIS
        )
        at_rate = tl.expand_dims((batch * T + begin + w + writers) * H + head, AXIS)
        tl.store(deta + at_rate, drates, tl.expand_dims(w + writers, AXIS) < length)
        tl.store(dv + to_writer + at_writer, -dtarget, in_writer)
        tl.debug_barrier()  # all threads have read z, whose place dz_write takes
        tl.store(zs + to_writer + at_writer, dz_write, in_writer)
        tl.store(dk + to_writer + at_writer, dK + dtarget, in_writer)
        dnorm_weight += tl.sum(dnorm_writes, 1 - AXIS, keep_dims=True)
        dnorm_bias += tl.sum(dtarget, 1 - AXIS, keep_dims=True)

        if CAUSAL:
            if ROWS < M:
                Q = tl.load(q + (begin + w) * q_strides[1] + at_own, in_writer, 0.0)
                dz_read = tl.load(dz_reads + to_writer + at_writer, in_writer, 0.0)
            dW += product(tl.trans(Q), dz_read, AXIS)
        dW += product(tl.trans(K), dz_write, AXIS)
        dz = dz_write.to(tl.float32)
        if CAUSAL:
            dz = dz_read.to(tl.float32) + dz
        db += tl.sum(dz, 1 - AXIS, keep_dims=True)

    store_state(dweights, program, dW, db, D, AXIS)
    tl.store(dlast + program, tl.sum(dlast_rows))
    store_row(dnorm[0] + program * D, dnorm_weight, D, AXIS)
    store_row(dnorm[1] + program * D, dnorm_bias, D, AXIS)


@triton.jit(do_not_specialize=["T"], repr=lambda _: "ttt_linear_backward_keys")
def backward_keys_kernel(
    dy, dafter, dopen, q, k, v, eta, token_scale, norm_weight, norm_bias, log_keep, W0, after,
    steps, seen, token_ranges, dq, dk, dv, deta, dscale, dlast, dnorm, dkeep, dweights, dstart,
    dz_reads, zs, T, H, dy_strides, q_strides, k_strides, v_strides, eta_strides,
    D: tl.constexpr, M: tl.constexpr, CAUSAL: tl.constexpr, ROWS: tl.constexpr, AXIS: tl.constexpr,
    STAGES: tl.constexpr, LICM: tl.constexpr,
):  # fmt: skip
    """One program: dZ W^T of one head of one sequence, added to dk; dZ is in `zs`. ROWS is M.

    `dstart`, if there is a forget gate, gets the sum of Q^T dZb + K^T dZ.
    """
    program, head, batch, begin, length = this_sequence(token_ranges, T, H)
    writers, features = tl.arange(0, M), tl.arange(0, triton.next_power_of_2(D))
    last_scale = tl.load(token_scale + M - 1)
    if seen is None:
        W, b = load_state(after, program, D, AXIS)
    else:
        W, b = load_state(W0, head, D, AXIS)
        dW, db = tl.zeros_like(W), tl.zeros_like(b)
    memory = first_memory(token_ranges, program, begin, T, H, M)
    at_q = place(writers, q_strides[1], features, q_strides[3], AXIS)
    q = of_head(q, q_strides, batch, head)
    at_k = place(writers, k_strides[1], features, k_strides[3], AXIS)
    at = place(writers, H * D, features, 1, AXIS)
    k = of_head(k, k_strides, batch, head)

    count = tl.cdiv(length, M)
    for i in tl.range(0, count, num_stages=STAGES, disable_licm=not LICM):
        start = (count - 1 - i) * M
        to = ((batch * T + begin + start) * H + head) * D
        mask = inside(writers, length - start, features, D, AXIS)
        scale = tl.where(start + M > length, 0.0, last_scale)  # an open mini-batch takes no step
        K = tl.load(k + (begin + start) * k_strides[1] + at_k, mask, 0.0)
        if seen is None:
            S = tl.load(steps + to + at, mask, 0.0)
            W += scale * product(tl.trans(K), S, AXIS)
        else:
            W = load_memory(seen, memory + start // M * H, W0, head, D, AXIS)[0]
        W_read = W.to(K.dtype)
        dz_write = tl.load(zs + to + at, mask, 0.0)
        dK = tl.load(dk + to + at, mask, 0.0).to(tl.float32)
        dK += product(dz_write, tl.trans(W_read), AXIS)
        tl.debug_barrier()  # all threads have read dk
        tl.store(dk + to + at, dK, mask)
        if seen is not None:
            q_rows = q + (begin + start) * q_strides[1] + at_q
            dW, db = readers_backward(dW, db, q_rows, dz_reads + to + at, mask, AXIS)
            dW += product(tl.trans(K), dz_write, AXIS)
            db += tl.sum(dz_write.to(tl.float32), 1 - AXIS, keep_dims=True)

    if seen is not None:
        store_state(dstart, program, dW, db, D, AXIS)
