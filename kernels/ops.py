"""The inner loop as two functions of tensors: ttt_linear and ttt_mlp.

They check what came, cut the sequence at mini-batch boundaries, and hand the parts to a backend.
Every way of cutting a sequence into calls gives the same output and the same final state.

B batch, T tokens, H heads, D head dim, E inner hidden, M mini-batch size.
"""

import torch
from torch import Tensor

from . import dual, reference
from .inner import Norm
from .state import State


BACKENDS = ("auto", "dual", "reference")


def ttt_linear(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    state: State,
    *,
    mini_batch_size: int,
    backend: str = "auto",
) -> tuple[Tensor, State]:
    """Read T tokens through an inner linear model that learns from each (arXiv 2407.04620).

    Arguments:
        q, k, v: (B, T, H, D) after rotary positions; float32, float64, bfloat16 or float16.
        eta: (B, T, H), inner learning rate of the token that writes.
        token_scale: (M,), factor of the token that reads, by its place in the mini-batch.
        norm_weight, norm_bias: (H, D), inner LayerNorm.
        state: weights (B, H, D, D), (B, H, 1, D), float32 (float64 for float64 inputs).
        mini_batch_size: M, tokens that share one inner step.
        backend: "auto" (the fastest that can serve), "dual" or "reference".
    Returns: y (B, T, H, D) = q + LayerNorm(F(q)) in q's dtype, and the state after the T tokens.
    Raises: ValueError for a shape, dtype, size or backend that does not fit.
    """
    norm = norm_weight, norm_bias
    return run(q, k, v, eta, token_scale, norm, state, 1, mini_batch_size, backend)


def ttt_mlp(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    state: State,
    *,
    mini_batch_size: int,
    backend: str = "auto",
) -> tuple[Tensor, State]:
    """Read T tokens through an inner two-layer MLP that learns from each (arXiv 2407.04620).

    As `ttt_linear`, with state weights (B, H, D, E), (B, H, 1, E), (B, H, E, D), (B, H, 1, D).
    """
    norm = norm_weight, norm_bias
    return run(q, k, v, eta, token_scale, norm, state, 2, mini_batch_size, backend)


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm: Norm,
    state: State,
    depth: int,
    mini_batch_size: int,
    backend: str,
) -> tuple[Tensor, State]:
    """Check, compute in the state's dtype, cut into head | body | tail."""
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
    check_tokens(q, k, v, eta, token_scale, norm, mini_batch_size)
    check_weights(state, depth, q.shape[-1])
    check_state(q, state, mini_batch_size)
    dtype, state_dtype = q.dtype, state.weights[0].dtype
    q, k, v, eta, token_scale = (x.to(state_dtype) for x in (q, k, v, eta, token_scale))
    norm = norm[0].to(state_dtype), norm[1].to(state_dtype)
    with torch.autocast(q.device.type, enabled=False):
        if backend == "reference":
            y, state = reference.run(q, k, v, eta, token_scale, norm, state)
            return y.to(dtype), state
        lengths, parts = zip(*cut(q.shape[1], state.filled, mini_batch_size), strict=True)
        ys = []
        for part, *tokens in zip(parts, *(split(x, lengths) for x in (q, k, v, eta)), strict=True):
            y, state = part(*tokens, token_scale, norm, state)
            ys.append(y)
    return (torch.cat(ys, dim=1) if len(ys) > 1 else ys[0]).to(dtype), state


def split(x: Tensor, lengths: tuple[int, ...]) -> tuple[Tensor, ...]:
    """x cut along its tokens; whole, it is spared a view whose gradient would be a copy."""
    return x.split(lengths, dim=1) if len(lengths) > 1 else (x,)


def cut(T: int, filled: int, M: int) -> list[tuple[int, object]]:
    """Lengths of head (what the open mini-batch still takes), body and tail, and who runs each."""
    head = min(T, M - filled) if filled else 0
    tail = (T - head) % M
    body = T - head - tail
    parts = [(head, dual.piece), (body, dual.whole), (tail, dual.piece)]
    return [(length, part) for length, part in parts if length]


def check_tokens(
    q: Tensor, k: Tensor, v: Tensor, eta: Tensor, token_scale: Tensor, norm: Norm, M: int
) -> None:
    if q.ndim != 4 or not q.is_floating_point() or 0 in q.shape:
        raise ValueError(f"q is {describe(q)}; it must be floats (batch, tokens, heads, head dim)")
    B, T, H, D = q.shape
    for name, x in (("k", k), ("v", v)):
        if x.shape != q.shape:
            raise ValueError(f"{name} is {describe(x)}; it must have q's shape, {tuple(q.shape)}")
    if eta.shape != (B, T, H):
        raise ValueError(
            f"eta is {describe(eta)}; it must be (batch, tokens, heads) = {(B, T, H)}, one inner "
            "learning rate per token and head, of the token that writes"
        )
    if M < 1 or token_scale.shape != (M,):
        raise ValueError(
            f"token_scale is {describe(token_scale)}; it must be (mini_batch_size,) = ({M},), "
            "at least one token long"
        )
    for name, x in (("norm_weight", norm[0]), ("norm_bias", norm[1])):
        if x.shape != (H, D):
            raise ValueError(f"{name} is {describe(x)}; it must be (heads, head dim) = {(H, D)}")


def check_weights(state: State, depth: int, D: int) -> None:
    """The last two axes of each weight, layer by layer."""
    came = tuple(tuple(w.shape[-2:]) for w in state.weights)
    E = came[0][-1] if came and depth == 2 else 4 * D
    shapes = ((D, D), (1, D)) if depth == 1 else ((D, E), (1, E), (E, D), (1, D))
    if came != shapes:
        raise ValueError(f"state.weights end in {came}; for this head dim they must be {shapes}")


def check_state(q: Tensor, state: State, M: int) -> None:
    B, _, H, _ = q.shape
    allowed = torch.float64 if q.dtype == torch.float64 else torch.float32
    for x in (*state.weights, *state.open):
        if x.shape[:2] != (B, H) or x.dtype != allowed:
            raise ValueError(
                f"a tensor of the state is {describe(x)}; for this q it must be {allowed} and "
                f"begin with (batch, heads) = {(B, H)}"
            )
    if not 0 <= state.filled < M:
        raise ValueError(f"state.filled is {state.filled}; it must be from 0 to {M - 1}")
    wanted = [(B, H, state.filled, n) for W in state.weights[::2] for n in W.shape[-2:]]
    came = [tuple(x.shape) for x in state.open]
    if came != (wanted if state.filled else []):
        raise ValueError(
            f"state.open is {came}; with filled = {state.filled} it must be "
            f"{wanted if state.filled else 'empty'}"
        )


def describe(x: Tensor) -> str:
    return f"{x.dtype} of shape {tuple(x.shape)}"
