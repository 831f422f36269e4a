"""The selective scan of Mamba-1 (arXiv 2312.00752): a diagonal recurrence, different at each token.

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t        y_t = C_t h_t + D x_t

`selective_scan` reads the tokens in tiles whose states stay in the cache, and keeps only the state
before each tile; its backward computes a tile's states again. So memory holds T / TILE states
instead of T, and nothing is divided by a decay. `reference` is the specification.

A, B, C, D are the paper's letters; batch b, T tokens, E features, N states of each feature.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


TILE = 64
"""Tokens of a tile: 1 MiB of states at E = 256 and N = 16, which fits into caches."""


def reference(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token after the other; arguments as in `selective_scan`, all in the state's dtype."""
    ys = []
    for t in range(x.shape[1]):
        decay = torch.exp(dt[:, t, :, None] * A)  # (b, E, N)
        state = decay * state + (dt[:, t] * x[:, t])[..., None] * B[:, t, None]
        ys.append((state * C[:, t, None]).sum(-1) + D * x[:, t])
    return torch.stack(ys, dim=1), state


def selective_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The outputs y (b, T, E) in x's dtype, and the state after the last token.

    x, dt: (b, T, E), dt positive; A: (E, N), negative; B, C: (b, T, N); D: (E,).
    state: (b, E, N), float32 or float64: the dtype in which everything is computed.
    """
    dtype = x.dtype
    x, dt, A, B, C, D = (tensor.to(state.dtype) for tensor in (x, dt, A, B, C, D))
    with torch.autocast(x.device.type, enabled=False):
        y, state = SelectiveScan.apply(dt, dt * x, A, B, C, state)
        return torch.addcmul(y, D, x).to(dtype), state


class SelectiveScan(torch.autograd.Function):
    """The scan without the skip D; `writes` is dt x. Inside, time comes first and features last."""

    @staticmethod
    def forward(ctx, dt, writes, A, B, C, state):
        ctx.save_for_backward(dt, writes, A, B, C)
        dt, writes, B, C, A = *map(by_time, (dt, writes, B, C)), A.mT.contiguous()
        y, state, starts = torch.empty_like(dt), state.mT.contiguous(), []
        buffers, save = scratch(2, dt, A), any(ctx.needs_input_grad)
        for tile in tiles(len(dt)):
            if save:
                starts.append(state)
            _, states = forward_tile(dt[tile], writes[tile], A, B[tile], state, *buffers)
            y[tile] = over_states(C[tile], states)
            state = states[-1].clone()  # the next tile overwrites it
        ctx.starts = starts
        return y.transpose(0, 1), state.mT.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y, grad_state):
        dt, writes, A, B, C = ctx.saved_tensors
        dt, writes, B, C, grad_y = map(by_time, (dt, writes, B, C, grad_y))
        A, carry = A.mT.contiguous(), grad_state.mT
        grads = [torch.empty_like(tensor) for tensor in (dt, writes, B, C)]
        grad_A, buffers = torch.zeros_like(A), scratch(3, dt, A)
        with torch.autocast(dt.device.type, enabled=False):
            for tile, start in zip(reversed(tiles(len(dt))), reversed(ctx.starts), strict=True):
                inputs = (dt[tile], writes[tile], A, B[tile], C[tile], start)
                tile_grads = backward_tile(inputs, grad_y[tile], carry, *buffers)
                *grads_tile, grad_A_tile, carry = tile_grads
                for grad, part in zip(grads, grads_tile, strict=True):
                    grad[tile] = part
                grad_A += grad_A_tile
        grad_dt, grad_writes, grad_B, grad_C = (grad.transpose(0, 1) for grad in grads)
        return grad_dt, grad_writes, grad_A.mT, grad_B, grad_C, carry.mT


def forward_tile(
    dt: Tensor, writes: Tensor, A: Tensor, B: Tensor, state: Tensor, decay: Tensor, states: Tensor
) -> tuple[Tensor, Tensor]:
    """The decays and the states after each token of a tile, (L, b, N, E), in the two buffers."""
    decay, states = decay[: len(dt)], states[: len(dt)]
    torch.mul(dt[:, :, None], A, out=decay).exp_()
    torch.mul(B[..., None], writes[:, :, None], out=states)
    for after, factor in zip(states.unbind(), decay.unbind(), strict=True):
        state = after.addcmul_(factor, state)
    return decay, states


def backward_tile(
    inputs: tuple[Tensor, ...], grad_y: Tensor, carry: Tensor, *buffers: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of a tile's dt, writes, B, C, A and first state; `carry` is its last state's."""
    dt, writes, A, B, C, start = inputs
    decay, states = forward_tile(dt, writes, A, B, start, *buffers[:2])
    g = buffers[2][: len(dt)]  # the gradient of each state
    torch.mul(C[..., None], grad_y[:, :, None], out=g)
    later = g[-1].add_(carry)
    for earlier, factor in zip(g.unbind()[-2::-1], decay.unbind()[:0:-1], strict=True):
        later = earlier.addcmul_(factor, later)
    grad_C, grad_B = over_features(states, grad_y), over_features(g, writes)
    grad_writes = over_states(B, g)
    g.mul_(decay)
    carry = g[0].clone()
    g[1:].mul_(states[:-1])
    g[0].mul_(start)  # g is now the gradient of dt A
    grad_dt = torch.mul(g, A, out=decay).sum(2)
    grad_A = torch.mul(g, dt[:, :, None], out=decay).sum((0, 1))
    return grad_dt, grad_writes, grad_B, grad_C, grad_A, carry


def tiles(T: int) -> list[slice]:
    return [slice(start, start + TILE) for start in range(0, T, TILE)]


def by_time(x: Tensor) -> Tensor:
    """(b, T, ...) as contiguous (T, b, ...): a token's states of all sequences are adjacent."""
    return x.transpose(0, 1).contiguous()


def scratch(count: int, dt: Tensor, A: Tensor) -> Tensor:
    """Buffers for a tile's states, reused by all tiles: new ones would not be in the cache."""
    return dt.new_empty(count, min(TILE, len(dt)), dt.shape[1], *A.shape)


def over_states(weights: Tensor, states: Tensor) -> Tensor:
    """(L, b, N) times (L, b, N, E), summed over N: (L, b, E)."""
    return (weights[:, :, None] @ states)[:, :, 0]


def over_features(states: Tensor, weights: Tensor) -> Tensor:
    """(L, b, N, E) times (L, b, E), summed over E: (L, b, N)."""
    # on a CPU eight times as fast as states @ weights[..., None]
    return (weights[:, :, None] @ states.mT)[:, :, 0]
