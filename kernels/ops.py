"""The inner loop as functions of tensors: ttt_linear, ttt_mlp, ttt_bare; by the token, ttt_decode_.

They check what came, cut the sequence at mini-batch boundaries, and hand the parts to a backend.
Every way of cutting a sequence into calls gives the same output and the same final state.

B batch, T tokens, H heads, D head dim, E inner hidden, M mini-batch size, S packed sequences.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import backends as choice
from . import reference
from .dual import decode as dual_decode
from .dual import norm_free as bare
from .dual import piece as dual
from .inner import Norm
from .slots import Slots
from .state import State


def ttt_linear(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    state: State | Sequence[State],
    *,
    mini_batch_size: int,
    cu_seqlens: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, State | list[State]]:
    """Read T tokens through an inner linear model that learns from each (arXiv 2407.04620).

    Arguments:
        q, k, v: (B, T, H, D) after rotary positions; float32, float64, bfloat16 or float16.
        eta: (B, T, H), inner learning rate of the token that writes.
        token_scale: (M,), factor of the token that reads, by its place in the mini-batch.
        norm_weight, norm_bias: (H, D), inner LayerNorm.
        state: weights (B, H, D, D), (B, H, 1, D), float32 (float64 for float64 inputs).
        mini_batch_size: M, tokens that share one inner step.
        cu_seqlens: (S + 1,) int32, where S sequences packed into one row (B = 1) begin, and the
            end: 0, ..., T. `state` then has one State per sequence, and so has the result. Best on
            the CPU, where reading it waits for no GPU.
        backend: "auto" (the fastest that can serve), "triton", "dual" or "reference".
    Returns: y (B, T, H, D) = q + LayerNorm(F(q)) in q's dtype, and the state after the T tokens.
    Raises: ValueError for a shape, dtype, size or backend that does not fit.
    """
    norm = norm_weight, norm_bias
    tokens = q, k, v, eta
    return run(tokens, token_scale, norm, state, 1, mini_batch_size, cu_seqlens, backend)


def ttt_mlp(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    state: State | Sequence[State],
    *,
    mini_batch_size: int,
    cu_seqlens: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, State | list[State]]:
    """Read T tokens through an inner two-layer MLP that learns from each (arXiv 2407.04620).

    As `ttt_linear`, with state weights (B, H, D, E), (B, H, 1, E), (B, H, E, D), (B, H, 1, D).
    """
    norm = norm_weight, norm_bias
    tokens = q, k, v, eta
    return run(tokens, token_scale, norm, state, 2, mini_batch_size, cu_seqlens, backend)


def ttt_bare(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    state: State | Sequence[State],
    *,
    mini_batch_size: int,
    cu_seqlens: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, State | list[State]]:
    """Read T tokens through f(x) = x W, which learns to give v for k; see bare.py.

    As `ttt_linear`, with one state weight, (B, H, D, D), and y = q W. No Triton kernel serves it.
    """
    tokens = q, k, v, eta
    return run(tokens, token_scale, (), state, 0, mini_batch_size, cu_seqlens, backend)


@torch.no_grad()
def ttt_decode_(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    slots: Slots,
    *,
    backend: str = "auto",
) -> Tensor:
    """Read one token of each sequence, linear or mlp as `slots` are, and change `slots` by it.

    The fast way to decode, and one that a CUDA graph can hold with backend "triton". Gives no
    gradients. Arguments as in `ttt_linear`, with T = 1 and q, k and v in the dtype that the slots
    were made for; every sequence may be at a place of its own. Returns y (B, 1, H, D).
    Raises: ValueError for a shape, dtype, size or backend that does not fit.
    """
    tokens, norm, weights = (q, k, v), (norm_weight, norm_bias), slots.weights
    M = slots.rows[0].shape[2]
    check_tokens(*tokens, eta, token_scale, norm, M)
    check_weights(slots, len(weights) // 2, q.shape[-1])
    check_state(q, State(weights), M)
    if q.shape[1] != 1 or {x.dtype for x in tokens} != {slots.rows[0].dtype}:
        raise ValueError(
            f"q is {describe(q)}; decoding takes one token of {slots.rows[0].dtype} at a time, as "
            "the slots were made for"
        )
    name = choose(backend, tokens, weights, M)
    if name == "reference":
        raise ValueError("backend 'reference' reads States; slots are for 'dual' and 'triton'")
    shared = [x.to(weights[0].dtype).contiguous() for x in (token_scale, *norm)]
    tokens = [*tokens, eta.to(weights[0].dtype)]
    with torch.autocast(q.device.type, enabled=False):
        if name == "dual":
            return dual_decode.decode_(*tokens, *shared, slots)
        from .gpu import (
            launch as triton_ops,  # importing it imports triton, which not every machine has
        )

        return triton_ops.decode(tokens, shared, slots)


def run(
    tokens: tuple[Tensor, ...],
    token_scale: Tensor,
    norm: Norm | tuple[()],
    state: State | Sequence[State],
    depth: int,
    M: int,
    cu_seqlens: Tensor | None,
    backend: str,
) -> tuple[Tensor, State | list[State]]:
    """Check, choose the backend, and let it read one row per State or the packed sequences."""
    check_tokens(*tokens, token_scale, norm, M)
    bounds = None if cu_seqlens is None else check_packing(tokens[0], cu_seqlens, state)
    for one in [state] if bounds is None else state:
        check_weights(one, depth, tokens[0].shape[-1])
        check_state(tokens[0], one, M)
    weights = (state if bounds is None else state[0]).weights
    name = choose(backend, tokens[:3], weights, M)
    norm = tuple(n.to(weights[0].dtype) for n in norm)
    token_scale = token_scale.to(weights[0].dtype)
    with torch.autocast(tokens[0].device.type, enabled=False):
        if name == "triton":
            return read_by_triton(tokens, token_scale, norm, state, bounds)
        slow, fast = (reference.run, read_by_dual) if norm else (bare.reference, bare.run)
        read = slow if name == "reference" else fast
        shared = (token_scale, norm) if norm else (token_scale,)
        dtype, tokens = tokens[0].dtype, [x.to(weights[0].dtype) for x in tokens]
        if bounds is None:
            y, state = read(*tokens, *shared, state)
            return y.to(dtype), state
        ys, states = [], []
        for (begin, end), one in zip(bounds, state, strict=True):
            y, one = read(*(x[:, begin:end] for x in tokens), *shared, one)
            ys.append(y)
            states.append(one)
        return torch.cat(ys, dim=1).to(dtype), states


def choose(backend: str, tokens: Sequence[Tensor], weights: Sequence[Tensor], M: int) -> str:
    name, reason = choice.choose_backend(backend, tokens, weights, M)
    if not torch.compiler.is_compiling():
        choice.tell(name, reason)
    return name


def read_by_triton(
    tokens: Sequence[Tensor],
    token_scale: Tensor,
    norm: Norm,
    state: State | Sequence[State],
    bounds: list[tuple[int, int]] | None,
) -> tuple[Tensor, State | list[State]]:
    from .gpu import (
        launch as triton_ops,  # importing it imports triton, which not every machine has
    )

    q, k, v, eta = tokens
    tokens = q, k, v, eta.float()
    if bounds is None:
        return triton_ops.run(*tokens, token_scale, norm, state)
    return triton_ops.run_packed(*tokens, token_scale, norm, state, bounds)


def read_by_dual(
    q: Tensor, k: Tensor, v: Tensor, eta: Tensor, token_scale: Tensor, norm: Norm, state: State
) -> tuple[Tensor, State]:
    lengths, parts = zip(*cut(q.shape[1], state, len(token_scale)), strict=True)
    ys = []
    for part, *tokens in zip(parts, *(split(x, lengths) for x in (q, k, v, eta)), strict=True):
        y, state = part(*tokens, token_scale, norm, state)
        ys.append(y)
    return torch.cat(ys, dim=1) if len(ys) > 1 else ys[0], state


def split(x: Tensor, lengths: tuple[int, ...]) -> tuple[Tensor, ...]:
    """x cut along its tokens; whole, it is spared a view whose gradient would be a copy."""
    return x.split(lengths, dim=1) if len(lengths) > 1 else (x,)


def cut(T: int, state: State, M: int) -> list[tuple[int, object]]:
    """Lengths of head, body and tail where there is one, and who runs each."""
    parts = zip(state.cut(T, M), (dual.piece, dual.whole, dual.piece), strict=True)
    return [(length, part) for length, part in parts if length]


def check_packing(q: Tensor, cu_seqlens: Tensor, states: Sequence[State]) -> list[tuple[int, int]]:
    """First token and last plus one of each packed sequence."""
    if cu_seqlens.dtype != torch.int32 or cu_seqlens.ndim != 1:
        raise ValueError(f"cu_seqlens is {describe(cu_seqlens)}; it must be int32 (sequences + 1,)")
    if q.shape[0] != 1:
        raise ValueError(f"q has a batch of {q.shape[0]}; with cu_seqlens it must be 1")
    borders = cu_seqlens.tolist()
    bounds = list(zip(borders[:-1], borders[1:], strict=True))
    if not bounds or (borders[0], borders[-1]) != (0, q.shape[1]) or any(a >= b for a, b in bounds):
        raise ValueError(
            f"cu_seqlens is {borders}; it must rise from 0 to the {q.shape[1]} tokens, every "
            "sequence having one at least"
        )
    if isinstance(states, State) or len(states) != len(bounds):
        came = "one State" if isinstance(states, State) else f"{len(states)} States"
        raise ValueError(f"state is {came}; with these cu_seqlens it must be {len(bounds)} States")
    return bounds


def check_tokens(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    norm: Norm | tuple[()],
    M: int,
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
    for name, x in zip(("norm_weight", "norm_bias"), norm, strict=False):  # bare: neither
        if x.shape != (H, D):
            raise ValueError(f"{name} is {describe(x)}; it must be (heads, head dim) = {(H, D)}")


def check_weights(state: State | Slots, depth: int, D: int) -> None:
    """The last two axes of each weight, layer by layer; depth 0 is the bare model."""
    came = tuple(tuple(w.shape[-2:]) for w in state.weights)
    E = came[0][-1] if came and depth == 2 else 4 * D
    shapes = (((D, D),), ((D, D), (1, D)), ((D, E), (1, E), (E, D), (1, D)))[depth]
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
