"""The Triton kernels of TTT-Linear against the dual form in float64; interpreted on a CPU."""

import pytest
import torch

from tttvideo.kernels import State, triton_linear, ttt_linear


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * torch.cuda.is_available()
FORWARD_CAPS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
GRADIENT_CAPS = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
NAMES = ["q", "k", "v", "eta", "token_scale", "gain", "shift", "W", "b"]


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, device=DEVICE).to(dtype)


def operands(B: int, T: int, H: int, D: int, M: int, dtype: torch.dtype) -> list[torch.Tensor]:
    q, k, v = (random(B, T, H, D, dtype=dtype) * scale for scale in (1, 2 * D**-0.5, 1))
    eta = torch.rand(B, T, H, device=DEVICE) / 5
    token_scale = 1 / torch.arange(1, M + 1, device=DEVICE) + torch.rand(M, device=DEVICE) / 10
    return [q, k, v, eta, token_scale, 1 + random(H, D) / 3, random(H, D) / 3]


def weights(S: int, H: int, D: int) -> list[torch.Tensor]:
    return [random(S, H, D, D) * D**-0.5, random(S, H, 1, D) / 3]


def gradients(S: int, T: int, H: int, D: int, M: int) -> list[torch.Tensor]:
    """Given ones, of y as one row of tokens for each sequence, W, b and the open rows."""
    shapes = (S, T, H, D), (S, H, D, D), (S, H, 1, D), (S, H, M, D)
    return [random(*shape) for shape in shapes]


def run(inputs, start, grads, spans=None) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Results (y, W, b, open rows) of the kernels and gradients of all inputs."""
    dy = grads[0].to(inputs[0].dtype)
    y, new, rows, saved = triton_linear.forward(*inputs, start, spans, True)
    *given, dstart = triton_linear.backward(
        dy, grads[1:3], grads[3:], *inputs, start, new, saved, spans
    )
    return [y, *new, *rows], [*given, *dstart]


def expected(inputs, start, grads, M: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The same of the dual form in float64; open rows as many as are open."""
    leaves = [x.double().requires_grad_() for x in (*inputs, *start)]
    state = State(tuple(leaves[7:]))
    y, state = ttt_linear(*leaves[:7], state, mini_batch_size=M, backend="dual")
    results = [y, *state.weights, *state.open[1:]]
    given = [*grads[:3], grads[3][:, :, : state.filled]]
    dy = grads[0].to(inputs[0].dtype)
    torch.autograd.backward(results, [x.double() for x in (dy, *given[1 : len(results)])])
    return [x.detach() for x in results], [x.grad for x in leaves]


def distance(came: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative, by root mean square."""
    return ((came - wanted).square().mean() / wanted.square().mean()).sqrt().item()


def check(came, wanted, dtype: torch.dtype, M: int) -> None:
    results, given = wanted
    filled = results[3].shape[2] if len(results) == 4 else 0
    assert came[0][0].dtype == dtype
    assert not came[0][3][:, :, filled:].any()
    for name, x, wish in zip(["y", "W", "b", "rows"], came[0], results, strict=False):
        x = x[:, :, :filled] if name == "rows" else x
        assert distance(x, wish) < FORWARD_CAPS[dtype], name
    for name, x, wish in zip(NAMES, came[1], given, strict=True):
        assert distance(x, wish) < GRADIENT_CAPS[dtype], name


def same(came, wanted) -> None:
    """The same bits."""
    assert len(came) == len(wanted)
    assert all(torch.equal(x, wish) for x, wish in zip(came, wanted, strict=True))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "B, T, D, M",
    [(2, 1, 16, 16), (1, 15, 64, 16), (2, 16, 32, 16), (1, 17, 64, 16), (1, 53, 96, 16)]
    + [(2, 40, 32, 32), (1, 31, 16, 32), (1, 70, 64, 64), (1, 65, 128, 64), (1, 33, 128, 16)],
)
def test_outputs_and_every_gradient_are_those_of_the_dual_form(B, T, D, M, dtype):
    inputs, start, grads = (
        operands(B, T, 2, D, M, dtype),
        weights(B, 2, D),
        gradients(B, T, 2, D, M),
    )
    check(run(inputs, start, grads), expected(inputs, start, grads, M), dtype, M)


@pytest.mark.parametrize(
    "arch, plan, D, M", [(80, 0, 32, 16), (80, 1, 96, 16), (90, 1, 32, 16), (80, 0, 32, 32)]
)
def test_every_plan_computes_the_same(arch, plan, D, M, monkeypatch):
    for name in ("forward_plans", "backward_plans"):
        plans = getattr(triton_linear, name)(arch, D, M, 2)
        monkeypatch.setattr(triton_linear, name, lambda *_, plans=plans: plans[plan:] or plans)
    inputs, start = operands(1, 2 * M + 3, 2, D, M, torch.float32), weights(1, 2, D)
    grads = gradients(1, 2 * M + 3, 2, D, M)
    check(run(inputs, start, grads), expected(inputs, start, grads, M), torch.float32, M)


def test_packed_sequences_are_separate_sequences():
    M, spans = 16, [(0, 16), (20, 55), (55, 55), (60, 61)]
    inputs, start = operands(1, 64, 2, 32, M, torch.float32), weights(4, 2, 32)
    grads = gradients(1, 64, 2, 32, M)[:1] + gradients(4, 64, 2, 32, M)[1:]
    bounds = torch.tensor(spans, dtype=torch.int32, device=DEVICE)
    results, given = run(inputs, start, grads, bounds)
    covered = torch.zeros(64, dtype=torch.bool, device=DEVICE)
    shared = [torch.zeros_like(x) for x in given[4:7]]
    for s, (begin, end) in enumerate(spans):
        covered[begin:end] = True
        own_start = [w[s : s + 1] for w in start]
        if begin == end:
            same(own_start, [x[s : s + 1] for x in results[1:3]])
            same([g[s : s + 1] for g in grads[1:3]], [x[s : s + 1] for x in given[7:]])
            continue
        own = [x[:, begin:end] for x in inputs[:4]] + inputs[4:]
        own_grads = [grads[0][:, begin:end], *(g[s : s + 1] for g in grads[1:])]
        alone, alone_given = run(own, own_start, own_grads)
        same(alone, [results[0][:, begin:end], *(x[s : s + 1] for x in results[1:])])
        same(alone_given[:4], [x[:, begin:end] for x in given[:4]])
        same(alone_given[7:], [x[s : s + 1] for x in given[7:]])
        shared = [x + a for x, a in zip(shared, alone_given[4:7], strict=True)]
    assert all(distance(x, a) < 1e-6 for x, a in zip(given[4:7], shared, strict=True))
    assert not results[0][:, ~covered].any()
    assert not any(x[:, ~covered].any() for x in given[:4])


def test_strides_do_not_matter():
    B, T, H, D, M = 2, 35, 2, 32, 16
    *tokens, eta, token_scale, gain, shift = operands(B, T, H, D, M, torch.float32)
    start, grads = weights(B, H, D), gradients(B, T, H, D, M)
    wanted = run([*tokens, eta, token_scale, gain, shift], start, grads)
    q, k, v = torch.stack(tokens, dim=3).unbind(3)  # of one fused projection
    v = v.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)  # features farthest apart
    eta = eta.transpose(1, 2).contiguous().transpose(1, 2)
    grads[0] = grads[0].transpose(1, 2).contiguous().transpose(1, 2)
    came = run([q, k, v, eta, token_scale, gain, shift], start, grads)
    same(sum(came, []), sum(wanted, []))


@pytest.mark.parametrize("spans", [None, [(2, 30), (30, 37)]])
def test_every_output_is_written_and_twice_the_same_bits(spans, monkeypatch):
    M, S = 16, 1 if spans is None else len(spans)
    inputs, start = operands(1, 37, 2, 32, M, torch.float16), weights(S, 2, 32)
    grads = gradients(1, 37, 2, 32, M)[:1] + gradients(S, 37, 2, 32, M)[1:]
    spans = None if spans is None else torch.tensor(spans, dtype=torch.int32, device=DEVICE)
    kept = [x.clone() for x in (*inputs, *start, *grads)]
    first = run(inputs, start, grads, spans)

    def poisoned(make):
        def fill(*args, **options):
            made = make(*args, **options)
            return made.fill_(torch.nan) if made.is_floating_point() else made

        return fill

    for room, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(room, name, poisoned(getattr(room, name)))
    second = run(inputs, start, grads, spans)
    same(sum(first, []), sum(second, []))
    same(kept, (*inputs, *start, *grads))


def test_a_cut_sequence_goes_on_from_the_carried_state():
    *tokens, token_scale, gain, shift = operands(1, 80, 2, 32, 16, torch.float32)
    start, shared = weights(1, 2, 32), (token_scale, gain, shift)
    whole = triton_linear.forward(*tokens, *shared, start, None, False)
    head = triton_linear.forward(*(x[:, :48] for x in tokens), *shared, start, None, False)
    tail = triton_linear.forward(*(x[:, 48:] for x in tokens), *shared, head[1], None, False)
    same([torch.cat((head[0], tail[0]), dim=1), *tail[1]], [whole[0], *whole[1]])


def test_rounding_does_not_feed_on_itself_in_2048_mini_batches(monkeypatch):
    parts = triton_linear.forward_plans(triton_linear.arch(), 16, 16, 2)[1]
    chain = {"writers": parts["writers"]}
    monkeypatch.setattr(triton_linear, "forward_plans", lambda *_: [chain])  # half as slow
    inputs, start = operands(1, 2048 * 16, 1, 16, 16, torch.float16), weights(1, 1, 16)
    new = triton_linear.forward(*inputs, start, None, False)[1]
    exact = [x.double() for x in (*inputs, *start)]
    state = State(tuple(exact[7:]))
    _, state = ttt_linear(*exact[:7], state, mini_batch_size=16, backend="dual")
    for x, wish in zip(new, state.weights, strict=True):
        assert distance(x, wish) < 2e-3


def test_the_way_back_finds_the_states_again():
    T = 16 * (2048 if DEVICE == "cuda" else 64)  # interpreted, a step takes about 0.03 s
    inputs, start, grads = (
        operands(1, T, 1, 16, 16, torch.float32),
        weights(1, 1, 16),
        gradients(1, T, 1, 16, 16),
    )
    check(run(inputs, start, grads), expected(inputs, start, grads, 16), torch.float32, 16)
