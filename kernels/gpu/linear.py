"""TTT-Linear on a GPU: one program walks one sequence of one head, its fast weights in registers.

Formulas and names are those of dual_linear.py and adjoint.py. The state, row statistics and sums
are float32; operands of products are rounded to the dtype of q. S = eta G is rounded once, and the
same numbers update the state, are read, kept for backward and returned. Ones in Q and K, which
stand for the bias, are left out of tiles: Q K^T is q k^T + 1 there, and W and b are walked apart.

The way back keeps no states: the one before a mini-batch is W + t_M K^T S of the one after.

Where all of that fits into registers, it is one kernel. Else it comes in parts, and in tiles of
ROWS tokens, whatever M is:

    writers   the chain from mini-batch to mini-batch: S and the weights, or dZ, dv, deta and
              the gradient of the weights
    readers   y, or dq, dZb and the writers' Z, by M / ROWS programs for each sequence and head;
              given S, a state is but a sum. After the writers, on the way back before them
    keys      dZ W^T, the rest of dk; only on the way back

AXIS says along which axis of a tile its features lie. With 1 a tile is tokens x features and W is
in x out; with 0 every matrix is held transposed, and since (A B)^T = B^T A^T each product just
swaps its operands. The matrix instructions of most GPUs have a block's warps share out the first
axis only: 16 tokens there, and warps repeat one another's work; Hopper's and Blackwell's do not.

B batch, T tokens, H heads, S sequences, D head dim, M mini-batch size.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from tttvideo.kernels import tuning

from .shared import arch, inner_adjoint, inner_gradient, normalize, normalize_both, project


Plan = dict[str, dict]
"""Options by part, in the order of launches."""


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
    """y like q, the weights after the last whole mini-batch, its open rows' S, what backward wants.

    q, k, v (B, T, H, D), any strides; eta (B, T, H), token_scale (M,), gain and shift (H, D) and
    weights W (S, H, D, D), b (S, H, 1, D) float32. spans: (S, 2) int32, first token and last plus
    one of S sequences packed into B = 1, or None for S = B sequences of T tokens.
    Open rows: (S, H, M, D) float32, zeros where none is open.
    """
    (_, T, H, D), M, S = q.shape, len(token_scale), len(weights[0])
    empty = torch.empty if spans is None else torch.zeros  # spans may leave out tokens
    y = empty(q.shape, dtype=q.dtype, device=q.device)
    new = tuple(torch.empty_like(w) for w in weights)
    rows = weights[0].new_zeros(S, H, M, D)

    def walk(plan: Plan) -> Tensor | None:
        steps = torch.empty_like(y) if save or "readers" in plan else None
        for part, chosen in plan.items():
            blocks = M // chosen["ROWS"] if part == "readers" else 1
            forward_kernel[(S * H, blocks)](
                *(q, k, v, eta, token_scale, gain, shift, *weights, spans),
                *(y, *new, rows, steps),
                *(T, H, q.stride(), k.stride(), v.stride(), eta.stride()),
                **dict(D=D, M=M, PART=part, **chosen),
            )
        return steps

    plans = forward_plans(arch(), D, M, q.itemsize)
    steps = walk(tuning.fastest(f"linear forward {save} {kind(q, M, S)}", plans, walk))
    return y, new, (rows,), (steps,) if save else ()


def saved_like(q: Tensor, weights: Sequence[Tensor], M: int, packed: bool) -> list[Tensor]:
    """What `forward` saves, empty: S of every token."""
    return [q.new_empty(q.shape)]


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
    (_, T, H, D), M, S = q.shape, len(token_scale), len(new[0])
    empty = torch.empty if spans is None else torch.zeros
    dq, dk, dv, deta = (empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v, eta))
    dW, db = (torch.empty_like(w) for w in new)
    dtoken_scale, dlast = eta.new_empty(S * H, M), eta.new_empty(S * H)

    def walk(plan: Plan) -> list[Tensor]:
        scratch = [torch.empty_like(y) if "keys" in plan else None for y in (dq, dk)]
        sums = []
        for part, chosen in plan.items():
            blocks = M // chosen["ROWS"] if part == "readers" else 1
            dgain, dshift = both = eta.new_empty(2, blocks, S, H, D)
            if part != "keys":
                sums.append(both)
            backward_kernel[(S * H, blocks)](
                *(dy, *dweights, *dopen, q, k, v, eta, token_scale, gain, shift, *new, *saved),
                *(spans, dq, dk, dv, deta, dtoken_scale, dlast, dgain, dshift, dW, db, *scratch),
                *(T, H, dy.stride(), q.stride(), k.stride(), v.stride(), eta.stride()),
                **dict(D=D, M=M, PART=part, **chosen),
            )
        return sums

    plans = backward_plans(arch(), D, M, q.itemsize)
    sums = walk(tuning.fastest(f"linear backward {kind(q, M, S)}", plans, walk))
    dtoken_scale = dtoken_scale.sum(0)
    dtoken_scale[-1] += dlast.sum()
    dgain, dshift = (x.sum((0, 1)) for x in torch.cat(sums, dim=1))
    return dq, dk, dv, deta, dtoken_scale, dgain, dshift, (dW, db)


def kind(q: Tensor, M: int, S: int) -> str:
    """What the fastest plan depends on; how many programs there are, to a power of two."""
    D, programs = q.shape[-1], triton.next_power_of_2(S * q.shape[2])
    return f"D{D} M{M} {q.dtype} {programs} programs"


def forward_plans(arch: int, D: int, M: int, itemsize: int) -> list[Plan]:
    """Kernels to launch and their options; all plans compute the same, the first is the default."""
    whole = {"all": options(arch, D, M, itemsize, LICM=D <= 64)}
    parts = {part: options(arch, D, 16, itemsize) for part in ("writers", "readers")}
    return [whole, parts] if M == 16 else [parts]


def backward_plans(arch: int, D: int, M: int, itemsize: int) -> list[Plan]:
    """As forward_plans. In one sweep less is moved, in parts a step waits less for the last."""
    whole = {"all": options(arch, D, M, itemsize)}
    parts = {part: options(arch, D, 16, itemsize) for part in ("readers", "writers")}
    parts["keys"] = options(arch, D, M, itemsize)
    if D <= 32:
        parts["writers"]["AXIS"] = 0  # on every GPU the shorter loop, and spilling nothing
    swept = M == 16 and itemsize == 2 and D in (16, 64) and arch > 80  # elsewhere it spills
    return [whole, parts] if swept else [parts]


def options(arch: int, D: int, ROWS: int, itemsize: int, LICM: bool = False) -> dict:
    """LICM, moving what does not change out of the loop, costs registers; two warps lack them."""
    stages = 2 if itemsize == 2 else 1  # two of float32 are more than shared memory
    launch = dict(num_warps=4 if D <= 64 else 8, enable_fp_fusion=True)
    return dict(ROWS=ROWS, AXIS=int(arch > 80), STAGES=stages, LICM=LICM, **launch)


@triton.jit
def span(spans, T, sequence):
    """Batch, first token and number of tokens of a sequence."""
    if spans is None:
        return sequence, tl.cast(0, tl.int64), T
    else:
        begin, end = tl.load(spans + 2 * sequence), tl.load(spans + 2 * sequence + 1)
        return tl.cast(0, tl.int64), begin.to(tl.int64), end - begin


@triton.jit
def place(rows, row_stride, columns, column_stride, AXIS: tl.constexpr):
    """Offsets of a tile of rows x columns; with 1 and -1 how far a row is ahead of a column."""
    return (
        tl.expand_dims(rows, AXIS) * row_stride + tl.expand_dims(columns, 1 - AXIS) * column_stride
    )


@triton.jit
def inside(rows, row_count, columns, column_count: tl.constexpr, AXIS: tl.constexpr):
    """The mask of a tile of which row_count x column_count elements are there."""
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


@triton.jit(do_not_specialize=["T"], repr=lambda s: f"ttt_linear_forward_{s.constants['PART']}")
def forward_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    eta_ptr,
    token_scale_ptr,
    gain_ptr,
    shift_ptr,
    W_ptr,
    b_ptr,
    spans,
    y_ptr,
    W_new_ptr,
    b_new_ptr,
    rows_ptr,
    S_ptr,
    T,
    H,
    q_strides,
    k_strides,
    v_strides,
    eta_strides,
    D: tl.constexpr,
    M: tl.constexpr,
    PART: tl.constexpr,
    ROWS: tl.constexpr,
    AXIS: tl.constexpr,
    STAGES: tl.constexpr,
    LICM: tl.constexpr,
):
    """A tile has ROWS tokens on the side that PART is about, and M on the other."""
    READERS: tl.constexpr = PART == "all" or PART == "readers"
    WRITERS: tl.constexpr = PART == "all" or PART == "writers"
    program = tl.program_id(0).to(tl.int64)
    head = program % H
    batch, begin, length = span(spans, T, program // H)
    readers = tl.arange(0, ROWS if READERS else M)
    writers = tl.arange(0, ROWS if WRITERS else M)
    features = tl.arange(0, triton.next_power_of_2(D))
    known = features < D
    square = place(features, D, features, 1, AXIS)
    in_square = inside(features, D, features, D, AXIS)
    ahead = place(readers, 1, writers, -1, AXIS)

    block = tl.program_id(1) * ROWS if ROWS < M else 0
    reads = -tl.expand_dims(tl.load(token_scale_ptr + block + readers), AXIS)
    last_scale = tl.load(token_scale_ptr + M - 1)
    gain = tl.expand_dims(tl.load(gain_ptr + head * D + features, known, 0.0), 1 - AXIS)
    shift = tl.expand_dims(tl.load(shift_ptr + head * D + features, known, 0.0), 1 - AXIS)
    W = tl.load(W_ptr + program * D * D + square, in_square, 0.0)
    b = tl.expand_dims(tl.load(b_ptr + program * D + features, known, 0.0), 1 - AXIS)
    at_q = place(readers, q_strides[1], features, q_strides[3], AXIS)
    at_k = place(writers, k_strides[1], features, k_strides[3], AXIS)
    at_v = place(writers, v_strides[1], features, v_strides[3], AXIS)
    at_reader = place(readers, H * D, features, 1, AXIS)
    at_writer = place(writers, H * D, features, 1, AXIS)
    q_ptr += batch * q_strides[0] + head * q_strides[2]
    k_ptr += batch * k_strides[0] + head * k_strides[2]
    v_ptr += batch * v_strides[0] + head * v_strides[2]
    eta_ptr += batch * eta_strides[0] + head * eta_strides[2]

    W_read, b_read = W.to(k_ptr.dtype.element_ty), b
    count = tl.cdiv(length, writers.shape[0])
    for i in tl.range(0, count, num_stages=STAGES, disable_licm=not LICM):
        w = i * writers.shape[0]
        start = w // M * M if writers.shape[0] < M else w
        r = start + block
        to_w = ((batch * T + begin + w) * H + head) * D
        to_r = ((batch * T + begin + r) * H + head) * D
        in_w = inside(writers, length - w, features, D, AXIS)
        in_r = inside(readers, length - r, features, D, AXIS)
        K = tl.load(k_ptr + (begin + w) * k_strides[1] + at_k, in_w, 0.0)
        if writers.shape[0] == M:
            W_read, b_read = W.to(K.dtype), b
        else:
            if w == start:
                W_read, b_read = W.to(K.dtype), b

        if WRITERS:
            V = tl.load(v_ptr + (begin + w) * v_strides[1] + at_v, in_w, 0.0)
            eta = tl.load(
                eta_ptr + (begin + w + writers) * eta_strides[1], w + writers < length, 0.0
            )
            x, rstd = normalize(product(K, W_read, AXIS) + b_read, D, AXIS)
            k, v, eta = K.to(tl.float32), V.to(tl.float32), tl.expand_dims(eta, AXIS)
            G, _, _ = inner_gradient(x, rstd, k, v, gain, shift, D, AXIS)
            S = (eta * G).to(K.dtype)
            if S_ptr is not None:
                tl.store(S_ptr + to_w + at_writer, S, in_w)
        else:
            S = tl.load(S_ptr + to_w + at_writer, in_w, 0.0)

        if READERS:
            Q = tl.load(q_ptr + (begin + r) * q_strides[1] + at_q, in_r, 0.0)
            mix = tl.where(ahead >= w - r, product(Q, tl.trans(K), AXIS) + 1, 0.0)
            z = product(Q, W_read, AXIS) + b_read + product((reads * mix).to(K.dtype), S, AXIS)
            x, _ = normalize(z, D, AXIS)
            y = Q.to(tl.float32) + shift + gain * x
            tl.store(y_ptr + to_r + at_reader, y, in_r)

        if start + M <= length:
            W -= last_scale * product(tl.trans(K), S, AXIS)
            b -= last_scale * tl.sum(S.to(tl.float32), 1 - AXIS, keep_dims=True)
        elif WRITERS:
            at_row = program * M * D + place(w - start + writers, D, features, 1, AXIS)
            tl.store(rows_ptr + at_row, S.to(tl.float32), in_w)

    if WRITERS:
        tl.store(W_new_ptr + program * D * D + square, W, in_square)
        at_b = tl.expand_dims(features, 1 - AXIS)
        tl.store(b_new_ptr + program * D + at_b, b, at_b < D)


@triton.jit(do_not_specialize=["T"], repr=lambda s: f"ttt_linear_backward_{s.constants['PART']}")
def backward_kernel(
    dy_ptr,
    dW_new_ptr,
    db_new_ptr,
    drows_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    eta_ptr,
    token_scale_ptr,
    gain_ptr,
    shift_ptr,
    W_ptr,
    b_ptr,
    S_ptr,
    spans,
    dq_ptr,
    dk_ptr,
    dv_ptr,
    deta_ptr,
    dtoken_scale_ptr,
    dlast_ptr,
    dgain_ptr,
    dshift_ptr,
    dW_ptr,
    db_ptr,
    dz_ptr,
    z_ptr,
    T,
    H,
    dy_strides,
    q_strides,
    k_strides,
    v_strides,
    eta_strides,
    D: tl.constexpr,
    M: tl.constexpr,
    PART: tl.constexpr,
    ROWS: tl.constexpr,
    AXIS: tl.constexpr,
    STAGES: tl.constexpr,
    LICM: tl.constexpr,
):
    """Tiles as in forward_kernel. Between parts, dz_ptr holds dZb, and z_ptr Z, later dZ."""
    READERS: tl.constexpr = PART == "all" or PART == "readers"
    WRITERS: tl.constexpr = PART == "all" or PART == "writers"
    KEYS: tl.constexpr = PART == "all" or PART == "keys"
    program = tl.program_id(0).to(tl.int64)
    head = program % H
    batch, begin, length = span(spans, T, program // H)
    readers = tl.arange(0, ROWS if READERS else M)
    writers = tl.arange(0, ROWS if WRITERS else M)
    features = tl.arange(0, triton.next_power_of_2(D))
    known = features < D
    square = place(features, D, features, 1, AXIS)
    in_square = inside(features, D, features, D, AXIS)
    block = tl.program_id(1) * ROWS if ROWS < M else 0
    reads = -tl.load(token_scale_ptr + block + readers)
    if READERS:
        reads = tl.expand_dims(reads, AXIS)
        ahead = place(readers, 1, writers, -1, AXIS)
    else:
        reads = tl.expand_dims(reads, 1 - AXIS)
        ahead = place(writers, -1, readers, 1, AXIS)
    last_scale = tl.load(token_scale_ptr + M - 1)
    gain = tl.expand_dims(tl.load(gain_ptr + head * D + features, known, 0.0), 1 - AXIS)
    shift = tl.expand_dims(tl.load(shift_ptr + head * D + features, known, 0.0), 1 - AXIS)
    b = tl.expand_dims(tl.load(b_ptr + program * D + features, known, 0.0), 1 - AXIS)
    if READERS or KEYS:
        W = tl.load(W_ptr + program * D * D + square, in_square, 0.0)
    if WRITERS:
        dW = tl.load(dW_new_ptr + program * D * D + square, in_square, 0.0)
        db = tl.expand_dims(tl.load(db_new_ptr + program * D + features, known, 0.0), 1 - AXIS)
    at_dy = place(readers, dy_strides[1], features, dy_strides[3], AXIS)
    at_q = place(readers, q_strides[1], features, q_strides[3], AXIS)
    at_k = place(writers, k_strides[1], features, k_strides[3], AXIS)
    at_v = place(writers, v_strides[1], features, v_strides[3], AXIS)
    at_reader = place(readers, H * D, features, 1, AXIS)
    at_writer = place(writers, H * D, features, 1, AXIS)
    dy_ptr += batch * dy_strides[0] + head * dy_strides[2]
    q_ptr += batch * q_strides[0] + head * q_strides[2]
    k_ptr += batch * k_strides[0] + head * k_strides[2]
    v_ptr += batch * v_strides[0] + head * v_strides[2]
    eta_ptr += batch * eta_strides[0] + head * eta_strides[2]

    dgain, dshift = tl.zeros_like(b), tl.zeros_like(b)
    dtoken_scale = tl.zeros_like(reads)
    dlast = tl.expand_dims(tl.zeros(writers.shape, tl.float32), AXIS)
    if WRITERS and ROWS < M:
        dW_read, db_read = dW.to(k_ptr.dtype.element_ty), db
    count = tl.cdiv(length, writers.shape[0])
    for i in tl.range(0, count, num_stages=STAGES, disable_licm=not LICM):
        w = (count - 1 - i) * writers.shape[0]
        start = w // M * M if writers.shape[0] < M else w
        r = start + block
        to_w = ((batch * T + begin + w) * H + head) * D
        to_r = ((batch * T + begin + r) * H + head) * D
        in_w = inside(writers, length - w, features, D, AXIS)
        in_r = inside(readers, length - r, features, D, AXIS)
        step = tl.where(start + M > length, 0.0, last_scale)  # none after an open mini-batch
        K = tl.load(k_ptr + (begin + w) * k_strides[1] + at_k, in_w, 0.0)
        S = tl.load(S_ptr + to_w + at_writer, in_w, 0.0)
        if READERS or WRITERS:
            Q = tl.load(q_ptr + (begin + r) * q_strides[1] + at_q, in_r, 0.0)
            causal = ahead >= w - r
            mix = product(Q, tl.trans(K), AXIS) if READERS else product(K, tl.trans(Q), AXIS)
            mix = tl.where(causal, mix + 1, 0.0)
            read = (reads * mix).to(Q.dtype)

        if WRITERS:
            if ROWS == M:
                dW_read, db_read = dW.to(K.dtype), db
            else:
                if w % M == M - ROWS:
                    dW_read, db_read = dW.to(K.dtype), db
            dstep = product(K, dW_read, AXIS) + db_read
            dlast -= tl.where(start + M > length, 0.0, tl.sum(S * dstep, AXIS, keep_dims=True))
            dk = -step * product(S, tl.trans(dW_read), AXIS)
        if READERS or KEYS:
            W += step * product(tl.trans(K), S, AXIS)
            b += step * tl.sum(S.to(tl.float32), 1 - AXIS, keep_dims=True)
            W_read = W.to(K.dtype)

        if READERS:
            if ROWS == M:
                K_own = K
            else:
                at_own = place(readers, k_strides[1], features, k_strides[3], AXIS)
                K_own = tl.load(k_ptr + (begin + r) * k_strides[1] + at_own, in_r, 0.0)
            dy = tl.load(dy_ptr + (begin + r) * dy_strides[1] + at_dy, in_r, 0.0).to(tl.float32)
            z = product(K_own, W_read, AXIS) + b
            z_read = product(Q, W_read, AXIS) + b + product(read, S, AXIS)
            x, rstd, x_read, rstd_read = normalize_both(z, z_read, D, AXIS)
            dz, _ = project(gain * dy, x_read, D, AXIS)
            dz_read = (rstd_read * dz).to(K.dtype)
            dgain_rows, dshift_rows = dy * x_read, dy
            if not WRITERS:
                tl.store(z_ptr + to_r + at_reader, z, in_r)
                tl.store(dz_ptr + to_r + at_reader, dz_read, in_r)
        elif WRITERS:
            z = tl.load(z_ptr + to_w + at_writer, in_w, 0.0).to(tl.float32)
            x, rstd = normalize(z, D, AXIS)
            dz_read = tl.load(dz_ptr + to_r + at_reader, in_r, 0.0)
        if READERS:
            dread = product(dz_read, tl.trans(S), AXIS)
            dmix = tl.where(causal, reads * dread, 0.0).to(K.dtype)
            dtoken_scale -= tl.sum(mix * dread, AXIS, keep_dims=True)
            dq = dy + product(dmix, K, AXIS)
            if not WRITERS:
                dq += product(dz_read, tl.trans(W_read), AXIS)
                tl.store(dq_ptr + to_r + at_reader, dq, in_r)

        if WRITERS:
            if READERS:
                given, dgiven = tl.trans(read), tl.trans(dmix)
            else:
                dgiven = reads * product(S, tl.trans(dz_read), AXIS)
                given, dgiven = read, tl.where(causal, dgiven, 0.0).to(K.dtype)
            dk += product(dgiven, Q, AXIS)
            dS = -step * dstep
            if start + M > length:
                at_row = program * M * D + place(w - start + writers, D, features, 1, AXIS)
                dS += tl.load(drows_ptr + at_row, in_w, 0.0)
            dS += product(given, dz_read, AXIS)
            V = tl.load(v_ptr + (begin + w) * v_strides[1] + at_v, in_w, 0.0)
            eta = tl.load(
                eta_ptr + (begin + w + writers) * eta_strides[1], w + writers < length, 0.0
            )
            k, v, eta = K.to(tl.float32), V.to(tl.float32), tl.expand_dims(eta, AXIS)
            G, f, mean_xp = inner_gradient(x, rstd, k, v, gain, shift, D, AXIS)
            dp, dz, deta = inner_adjoint(dS, G, x, rstd, mean_xp, eta, gain, D, AXIS)
            dz_write = dz.to(K.dtype)
            at_deta = tl.expand_dims((batch * T + begin + w + writers) * H + head, AXIS)
            tl.store(deta_ptr + at_deta, deta, tl.expand_dims(w + writers, AXIS) < length)
            if READERS:
                dgain_rows += dp * (f + gain * x)
                dp *= gain
                dshift_rows += dp
            else:
                dgain_rows = dp * (f + gain * x)
                dp *= gain
                dshift_rows = dp
            tl.store(dv_ptr + to_w + at_writer, -dp, in_w)
            if not READERS:
                tl.debug_barrier()  # z and dk give way to others, and all threads have read them
                tl.store(z_ptr + to_w + at_writer, dz_write, in_w)
                tl.store(dk_ptr + to_w + at_writer, dk + dp, in_w)
        elif KEYS:
            dz_write = tl.load(z_ptr + to_w + at_writer, in_w, 0.0)
            dk = tl.load(dk_ptr + to_w + at_writer, in_w, 0.0).to(tl.float32)
            dk += product(dz_write, tl.trans(W_read), AXIS)
            tl.debug_barrier()  # all threads have read dk
            tl.store(dk_ptr + to_w + at_writer, dk, in_w)
        if READERS or WRITERS:
            dgain += tl.sum(dgain_rows, 1 - AXIS, keep_dims=True)
            dshift += tl.sum(dshift_rows, 1 - AXIS, keep_dims=True)

        if PART == "all":
            dq += product(dz_read, tl.trans(W_read), AXIS)
            tl.store(dq_ptr + to_r + at_reader, dq, in_r)
            dk += dp + product(dz_write, tl.trans(W_read), AXIS)
            tl.store(dk_ptr + to_w + at_writer, dk, in_w)
        if WRITERS:
            if ROWS < M:
                at_own = place(writers, q_strides[1], features, q_strides[3], AXIS)
                Q = tl.load(q_ptr + (begin + w) * q_strides[1] + at_own, in_w, 0.0)
                dz_read = tl.load(dz_ptr + to_w + at_writer, in_w, 0.0)
            dW += product(tl.trans(Q), dz_read, AXIS)
            dW += product(tl.trans(K), dz_write, AXIS)
            dz = dz_read.to(tl.float32) + dz_write.to(tl.float32)
            db += tl.sum(dz, 1 - AXIS, keep_dims=True)

    at_row = tl.expand_dims(features, 1 - AXIS)
    if WRITERS:
        tl.store(dW_ptr + program * D * D + square, dW, in_square)
        tl.store(db_ptr + program * D + at_row, db, at_row < D)
        tl.store(dlast_ptr + program, tl.sum(dlast))
    if READERS:
        at_token = program * M + block + tl.expand_dims(readers, AXIS)
        tl.store(dtoken_scale_ptr + at_token, dtoken_scale)
    if READERS or WRITERS:
        part = program + tl.num_programs(0) * tl.program_id(1)
        tl.store(dgain_ptr + part * D + at_row, dgain, at_row < D)
        tl.store(dshift_ptr + part * D + at_row, dshift, at_row < D)
