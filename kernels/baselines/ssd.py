"""The scan of Mamba-2 (arXiv 2405.21060): one decay per head, so that a chunk of tokens is matmuls.

    h_t = exp(dt_t A) h_{t-1} + B_t (dt_t x_t)^T        y_t = C_t^T h_t + D x_t

Within a chunk y = ((C B^T) * decays) (dt x), the decays a lower triangle of exp(sums of dt A);
the state passes from chunk to chunk. Only the state before each chunk is saved for the backward.
`reference` is the specification.

A, B, C, D are the paper's letters; batch b, T tokens, H heads of P features, N states of each
feature, Q tokens of a chunk.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


CHUNK = 64
"""Tokens of a chunk, Q."""


def reference(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token after the other; arguments as in `ssd`, all in the state's dtype."""
    ys = []
    for t in range(x.shape[1]):
        decay = torch.exp(dt[:, t] * A)[:, None, :, None]  # (b, 1, H, 1)
        write = B[:, t, :, None, None] * (dt[:, t, :, None] * x[:, t])[:, None]
        state = decay * state + write  # (b, N, H, P)
        ys.append((C[:, t, :, None, None] * state).sum(1) + D[:, None] * x[:, t])
    return torch.stack(ys, dim=1), state


def ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The outputs y (b, T, H, P) in x's dtype, and the state after the last token.

    x: (b, T, H, P); dt: (b, T, H), positive; A: (H,), negative; B, C: (b, T, N); D: (H,).
    state: (b, N, H, P), float32 or float64, the dtype of all computation. The heads are columns of
    one matrix, since they share B and C.
    """
    dtype = x.dtype
    x, dt, A, B, C, D = (tensor.to(state.dtype) for tensor in (x, dt, A, B, C, D))
    with torch.autocast(x.device.type, enabled=False):
        y, state = SSD.apply(dt * A, dt[..., None] * x, B, C, state)
        return torch.addcmul(y, D[:, None], x).to(dtype), state


class SSD(torch.autograd.Function):
    """The scan without the skip D; `log` is dt A, and `writes` is dt x."""

    @staticmethod
    def forward(ctx, log, writes, B, C, state):
        y, starts, save = torch.empty_like(writes), [], any(ctx.needs_input_grad)
        for chunk in chunks(log.shape[1]):
            if save:
                starts.append(state)
            inputs = (log[:, chunk], writes[:, chunk], B[:, chunk], C[:, chunk])
            y[:, chunk], state = forward_chunk(*inputs, state)
        ctx.save_for_backward(log, writes, B, C, y, state)
        ctx.starts = starts
        return y, state

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y, carry):
        *inputs, y, after = ctx.saved_tensors
        grads = [torch.empty_like(tensor) for tensor in inputs]
        with torch.autocast(y.device.type, enabled=False):
            for chunk, start in zip(
                reversed(chunks(y.shape[1])), reversed(ctx.starts), strict=True
            ):
                parts = [tensor[:, chunk] for tensor in (*inputs, y, grad_y)]
                *grad_parts, carry = backward_chunk(parts, start, after, carry)
                for grad, part in zip(grads, grad_parts, strict=True):
                    grad[:, chunk] = part
                after = start
        return *grads, carry


def forward_chunk(
    log: Tensor, writes: Tensor, B: Tensor, C: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """y (b, Q, H, P) and the state (b, N, H, P) after a chunk."""
    within, since_start, to_end = decays(log)
    mix = (C @ B.mT)[:, None] * within  # (b, H, Q, Q): row t reads what column s wrote
    y = (mix @ writes.transpose(1, 2)).transpose(1, 2)
    y = torch.addcmul(y, since_start, across(C, state))
    return y, torch.addcmul(across(B.mT, to_end * writes), since_start[:, -1:], state)


def backward_chunk(
    parts: list[Tensor], state: Tensor, after: Tensor, carry: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of log, writes, B, C and the chunk's first state; `carry` is that of `after`.

    parts: log, writes, B, C, y and the gradient of y.
    """
    log, writes, B, C, y, grad_y = parts
    within, since_start, to_end = decays(log)
    mix = (C @ B.mT)[:, None] * within
    by_head = grad_y.transpose(1, 2)  # (b, H, Q, P)
    grad_scores = ((by_head @ writes.permute(0, 2, 3, 1)) * within).sum(1)  # (b, Q, Q)
    grad_read, late_writes = since_start * grad_y, to_end * writes
    grad_writes = (mix.mT @ by_head).transpose(1, 2)
    grad_writes = torch.addcmul(grad_writes, to_end, across(B, carry))
    grad_B = grad_scores.mT @ C + late_writes.flatten(2) @ carry.flatten(2).mT
    grad_C = grad_scores @ B + grad_read.flatten(2) @ state.flatten(2).mT
    grad_state = torch.addcmul(across(C.mT, grad_read), since_start[:, -1:], carry)
    # y_t is proportional to exp(sum of log up to t), a write at s inversely
    grad_sums = (grad_y * y).sum(-1) - (grad_writes * writes).sum(-1)  # (b, Q, H)
    grad_sums[:, -1] += (carry * after).sum((1, 3))
    grad_log = grad_sums.flip(1).cumsum(1).flip(1)
    return grad_log, grad_writes, grad_B, grad_C, grad_state


def decays(log: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Decay factors: from a write at s to t (b, H, Q, Q); from the start to t; from t to the end.

    log: (b, Q, H); the last two are (b, Q, H, 1).
    """
    sums = log.cumsum(1)
    heads = sums.mT
    span = heads[..., :, None] - heads[..., None, :]
    within = span.add_(torch.full_like(span[0, 0], -torch.inf).triu_(1)).exp_()
    return within, sums.exp()[..., None], (sums[:, -1:] - sums).exp()[..., None]


def across(rows: Tensor, columns: Tensor) -> Tensor:
    """rows (b, i, j) @ columns (b, j, H, P): (b, i, H, P)."""
    return (rows @ columns.flatten(2)).unflatten(2, columns.shape[2:])


def chunks(T: int) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, T, CHUNK)]
