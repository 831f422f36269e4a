"""The Triton kernels of TTT-MLP against the dual form in float64; by the interpreter on a CPU."""

import pytest
import torch

from tttvideo.kernels import State, triton_mlp, ttt_mlp


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * torch.cuda.is_available()
FORWARD_CAPS = {torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}
GRADIENT_CAPS = {torch.float32: 5e-6, torch.float16: 5e-3, torch.bfloat16: 2e-2}
SIZES = [(2, 1, 2, 32, 16), (1, 15, 1, 64, 16), (1, 16, 1, 32, 16), (2, 17, 2, 32, 16)]
SIZES += [(1, 63, 1, 32, 64), (1, 53, 1, 64, 16), (1, 65, 1, 64, 64), (1, 64, 1, 64, 64)]
SIZES += [(1, 197, 1, 32, 64), (1, 33, 1, 32, 32)]
CASES = [(*size, dtype) for size in SIZES for dtype in DTYPES]
if DEVICE == "cpu":  # dtypes take turns: the interpreter is slow
    CASES = [(*size, DTYPES[i % 2]) for i, size in enumerate(SIZES)]
NAMES = ["q", "k", "v", "eta", "token_scale", "gain", "shift", "W1", "b1", "W2", "b2"]
RESULTS = ["y", "W1", "b1", "W2", "b2", "X2", "S1", "S2"]


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, device=DEVICE).to(dtype)


def operands(B: int, T: int, H: int, D: int, M: int, dtype: torch.dtype) -> list[torch.Tensor]:
    q, k, v = (random(B, T, H, D, dtype=dtype) * scale for scale in (1, 2 * D**-0.5, 1))
    eta = torch.rand(B, T, H, device=DEVICE) / 5
    token_scale = 1 / torch.arange(1, M + 1, device=DEVICE) + torch.rand(M, device=DEVICE) / 10
    return [q, k, v, eta, token_scale, 1 + random(H, D) / 3, random(H, D) / 3]


def weights(S: int, H: int, D: int) -> list[torch.Tensor]:
    W1, W2 = random(S, H, D, 4 * D) * D**-0.5, random(S, H, 4 * D, D) * D**-0.5 / 2
    return [W1, random(S, H, 1, 4 * D) / 3, W2, random(S, H, 1, D) / 3]


def gradients(S: int, T: int, H: int, D: int, M: int) -> list[torch.Tensor]:
    """Given ones, of y as one row of tokens for each sequence, the weights and the open rows."""
    shapes = [(D, 4 * D), (1, 4 * D), (4 * D, D), (1, D), (M, 4 * D), (M, 4 * D), (M, D)]
    return [random(S, T, H, D), *(random(S, H, *shape) for shape in shapes)]


def run(inputs, start, grads, spans=None) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Results (y, weights, open rows X2, S1, S2) of the kernels and gradients of all inputs."""
    dy = grads[0].to(inputs[0].dtype)
    y, new, rows, saved = triton_mlp.forward(*inputs, start, spans, True)
    *given, dstart = triton_mlp.backward(
        dy, grads[1:5], grads[5:], *inputs, start, new, saved, spans
    )
    return [y, *new, *rows], [*given, *dstart]


def expected(inputs, start, grads, M: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The same of the dual form in float64; open rows as many as are open."""
    leaves = [x.double().requires_grad_() for x in (*inputs, *start)]
    state = State(tuple(leaves[7:]))
    y, state = ttt_mlp(*leaves[:7], state, mini_batch_size=M, backend="dual")
    S1, X2, S2 = state.open[1:] or [None] * 3
    results = [y, *state.weights, *([X2, S1, S2] if state.filled else [])]
    dy = grads[0].to(inputs[0].dtype)
    given = [dy, *grads[1:5], *(g[:, :, : state.filled] for g in grads[5:])]
    torch.autograd.backward(results, [x.double() for x in given[: len(results)]])
    return [x.detach() for x in results], [x.grad for x in leaves]


def distance(came: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative, by root mean square."""
    return ((came - wanted).square().mean() / wanted.square().mean()).sqrt().item()


def check(came, wanted, dtype: torch.dtype, M: int) -> None:
    results, given = wanted
    filled = results[5].shape[2] if len(results) == 8 else 0
    assert came[0][0].dtype == dtype
    assert not any(x[:, :, filled:].any() for x in came[0][5:])
    for name, x, wish in zip(RESULTS, came[0], results, strict=False):
        x = x[:, :, :filled] if name in RESULTS[5:] else x
        assert distance(x, wish) < FORWARD_CAPS[dtype], name
    for name, x, wish in zip(NAMES, came[1], given, strict=True):
        assert distance(x, wish) < GRADIENT_CAPS[dtype], name


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("B, T, H, D, M, dtype", CASES, ids=str)
def test_outputs_and_every_gradient_are_those_of_the_dual_form(B, T, H, D, M, dtype):
    inputs, start = operands(B, T, H, D, M, dtype), weights(B, H, D)
    grads = gradients(B, T, H, D, M)
    check(run(inputs, start, grads), expected(inputs, start, grads, M), dtype, M)


FORMS = {  # kernels that walk, forward and back, and the slices of hidden units they take
    "resident": (triton_mlp.resident_kernel, triton_mlp.resident_chain_kernel, {}),
    "streamed": (triton_mlp.streamed_kernel, triton_mlp.streamed_chain_kernel, {"HS": 64}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("T, D, M", [(35, 32, 16), (32, 64, 16), (33, 32, 32)])
def test_with_the_state_in_registers_or_in_memory_results_are_the_same(T, D, M, form, monkeypatch):
    walk, chain, constants = FORMS[form]
    options = triton_mlp.options(8, **constants)
    monkeypatch.setattr(triton_mlp, "walk_options", lambda *_: (walk, options))
    monkeypatch.setattr(triton_mlp, "chain_options", lambda *_: (chain, options))
    inputs, start = operands(1, T, 1, D, M, torch.float32), weights(1, 1, D)
    grads = gradients(1, T, 1, D, M)
    check(run(inputs, start, grads), expected(inputs, start, grads, M), torch.float32, M)


@pytest.mark.parametrize("arch", [80, 100])  # 90 is what the interpreter takes
def test_each_gpu_gets_the_same(arch, monkeypatch):
    monkeypatch.setattr(triton_mlp, "arch", lambda: arch)
    inputs, start = operands(1, 35, 1, 32, 16, torch.float16), weights(1, 1, 32)
    grads = gradients(1, 35, 1, 32, 16)
    check(run(inputs, start, grads), expected(inputs, start, grads, 16), torch.float16, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_packed_sequences_are_separate_sequences(dtype):
    M, spans = 16, [(0, 16), (20, 55), (55, 55), (60, 61)]
    inputs, start = operands(1, 64, 1, 32, M, dtype), weights(4, 1, 32)
    grads = gradients(1, 64, 1, 32, M)[:1] + gradients(4, 64, 1, 32, M)[1:]
    bounds = torch.tensor(spans, dtype=torch.int32, device=DEVICE)
    results, given = run(inputs, start, grads, bounds)
    covered = torch.zeros(64, dtype=torch.bool, device=DEVICE)
    shared = [torch.zeros_like(x) for x in given[4:7]]
    for s, (begin, end) in enumerate(spans):
        covered[begin:end] = True
        own_start = [w[s : s + 1] for w in start]
        if begin == end:
            assert all(
                torch.equal(x[s : s + 1], w) for x, w in zip(results[1:5], own_start, strict=True)
            )
            assert all(torch.equal(x[s], g[s]) for x, g in zip(given[7:], grads[1:5], strict=True))
            continue
        own = [x[:, begin:end] for x in inputs[:4]] + inputs[4:]
        own_grads = [grads[0][:, begin:end], *(g[s : s + 1] for g in grads[1:])]
        alone, alone_given = run(own, own_start, own_grads)
        assert torch.equal(results[0][:, begin:end], alone[0])
        assert all(
            torch.equal(x[s : s + 1], a) for x, a in zip(results[1:], alone[1:], strict=True)
        )
        assert all(
            torch.equal(x[:, begin:end], a) for x, a in zip(given[:4], alone_given[:4], strict=True)
        )
        assert all(
            torch.equal(x[s : s + 1], a) for x, a in zip(given[7:], alone_given[7:], strict=True)
        )
        shared = [x + a for x, a in zip(shared, alone_given[4:7], strict=True)]
    assert all(distance(x, a) < 1e-6 for x, a in zip(given[4:7], shared, strict=True))
    assert not results[0][:, ~covered].any()
    assert not any(x[:, ~covered].any() for x in given[:4])


def test_strides_do_not_matter():
    B, T, H, D, M = 2, 19, 2, 32, 16
    *tokens, eta, token_scale, gain, shift = operands(B, T, H, D, M, torch.float32)
    start, grads = weights(B, H, D), gradients(B, T, H, D, M)
    wanted = run([*tokens, eta, token_scale, gain, shift], start, grads)
    q, k, v = torch.stack(tokens, dim=3).unbind(3)  # of one fused projection
    v = v.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)  # features farthest apart
    eta = eta.transpose(1, 2).contiguous().transpose(1, 2)
    grads[0] = grads[0].transpose(1, 2).contiguous().transpose(1, 2)
    came = run([q, k, v, eta, token_scale, gain, shift], start, grads)
    for x, wish in zip(sum(came, []), sum(wanted, []), strict=True):
        assert torch.equal(x, wish)


@pytest.mark.parametrize("spans", [None, [(2, 30), (30, 37)]])
def test_every_output_is_written_and_twice_the_same_bits(spans, monkeypatch):
    M, S = 16, 1 if spans is None else len(spans)
    inputs, start = operands(1, 37, 1, 32, M, torch.float16), weights(S, 1, 32)
    grads = gradients(1, 37, 1, 32, M)[:1] + gradients(S, 37, 1, 32, M)[1:]
    spans = None if spans is None else torch.tensor(spans, dtype=torch.int32, device=DEVICE)
    kept = [x.clone() for x in (*inputs, *start, *grads)]
    first = run(inputs, start, grads, spans)

    def poisoned(make):
        def poison(*args, **options):
            x = make(*args, **options)
            return x.fill_(torch.nan) if x.is_floating_point() else x

        return poison

    for room, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(room, name, poisoned(getattr(room, name)))
    second = run(inputs, start, grads, spans)
    for x, again in zip(sum(first, []), sum(second, []), strict=True):
        assert torch.equal(x, again)
    for x, before in zip((*inputs, *start, *grads), kept, strict=True):
        assert torch.equal(x, before)


def test_a_cut_sequence_goes_on_from_the_carried_state():
    *tokens, token_scale, gain, shift = operands(1, 80, 2, 32, 16, torch.float32)
    start, shared = weights(1, 2, 32), (token_scale, gain, shift)
    whole = triton_mlp.forward(*tokens, *shared, start, None, False)
    head = triton_mlp.forward(*(x[:, :48] for x in tokens), *shared, start, None, False)
    tail = triton_mlp.forward(*(x[:, 48:] for x in tokens), *shared, head[1], None, False)
    assert torch.equal(torch.cat((head[0], tail[0]), dim=1), whole[0])
    assert all(torch.equal(x, wish) for x, wish in zip(tail[1], whole[1], strict=True))


def test_rounding_does_not_feed_on_itself_in_2048_mini_batches():
    M, D, steps = 16, 32, 2048
    *tokens, token_scale, gain, shift = operands(1, steps * M, 1, D, M, torch.float16)
    start = weights(1, 1, D)
    came = triton_mlp.forward(*tokens, token_scale, gain, shift, start, None, False)
    exact = [x.double() for x in (*tokens, token_scale, gain, shift)]
    state = State(tuple(w.double() for w in start))
    with torch.no_grad():
        y, state = ttt_mlp(*exact, state, mini_batch_size=M, backend="dual")
    for x, wish in zip((came[0], *came[1]), (y, *state.weights), strict=True):
        assert distance(x, wish) < FORWARD_CAPS[torch.float16]
