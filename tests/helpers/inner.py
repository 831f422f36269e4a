"""Random inputs of the inner loop, and runs of it in one call or in several.

B batch, T tokens, H heads, D head dim, E inner hidden, M mini-batch size, S sequences.
"""

import torch

from tttvideo.kernels import State, ttt_linear, ttt_mlp


OPS = {"linear": ttt_linear, "mlp": ttt_mlp}


def random_inner(
    kind, T, M, D=6, B=2, H=3, E=None, S=None, dtype=torch.float64, seed=0, device="cpu"
):
    """q, k, v, eta, token_scale, norm_weight, norm_bias; and a state with nothing open.

    All are leaves that require gradients, and the same numbers on every device. q, k and v have
    `dtype`, all else at least float32. S: sequences of the state, when they are packed into B = 1.
    """
    generator, exact = (
        torch.Generator().manual_seed(seed),
        torch.promote_types(dtype, torch.float32),
    )

    def draw(*shape, mean=0.0, scale=1.0, dtype=exact):
        x = mean + torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
        return x.to(device, dtype).requires_grad_()

    E, S = E or 4 * D, S or B
    inputs = [draw(B, T, H, D, dtype=dtype) for _ in range(3)]
    places = torch.arange(1, M + 1, dtype=torch.float64)
    inputs += [draw(B, T, H, mean=0.05, scale=0.03), draw(M, mean=1 / places, scale=0.05)]
    inputs += [draw(H, D, mean=1.0, scale=0.3), draw(H, D, scale=0.3)]
    weights = []
    for size in [(D, D)] if kind == "linear" else [(D, E), (E, D)]:
        weights += [draw(S, H, *size, scale=size[0] ** -0.5), draw(S, H, 1, size[1], scale=0.3)]
    return inputs, State(tuple(weights))


def random_gate(state, T, seed=1):
    """Options of a forget gate for T tokens, log_keep (B, T, H) and start, leaves in the dtype of
    the state's weights.
    """
    generator, (B, H), first = (
        torch.Generator().manual_seed(seed),
        state.weights[0].shape[:2],
        state.weights[0],
    )

    def draw(draw_one, *shape):
        return draw_one(*shape, generator=generator, dtype=torch.float64).to(first.device)

    log_keep = -draw(torch.rand, B, T, H).to(first.dtype)
    start = [w[0].detach() + 0.3 * draw(torch.randn, *w.shape[1:]) for w in state.weights]
    start = tuple(w.to(first.dtype).requires_grad_() for w in start)
    return {"log_keep": log_keep.requires_grad_(), "start": start}


def part(inputs, begin, end):
    """The inputs of tokens begin, ..., end - 1."""
    return [x[:, begin:end] for x in inputs[:4]] + inputs[4:]


def run(kind, inputs, state, backend="dual", **memory):
    """memory: log_keep, start and causal."""
    return OPS[kind](*inputs, state, mini_batch_size=len(inputs[4]), backend=backend, **memory)


def run_in_pieces(kind, inputs, state, cuts, backend="dual", log_keep=None, **memory):
    """As `run`, with one call for each length in `cuts`."""
    ys, begin = [], 0
    for length in cuts:
        own = slice(begin, begin + length)
        memory["log_keep"] = None if log_keep is None else log_keep[:, own]
        y, state = run(kind, part(inputs, own.start, own.stop), state, backend, **memory)
        ys.append(y)
        begin += length
    return torch.cat(ys, dim=1), state


def tensors(state):
    return [*state.weights, *state.open]


def sequences(state):
    """A state of batch 1 for each sequence."""
    return tuple(state.map(lambda x, s=s: x[s : s + 1]) for s in range(len(state.weights[0])))
