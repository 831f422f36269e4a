"""Laws of the inner loop: dual equals reference, in any pieces, with every outer gradient."""

import subprocess
import sys

import pytest
import torch

from tttvideo.kernels import State, inner, reference, ttt_linear, ttt_mlp


OPS = {"linear": ttt_linear, "mlp": ttt_mlp}
B, H, D, E = 2, 3, 6, 10


def random_inner(kind, T, M, dtype=torch.float64, seed=0):
    """Inputs q, k, v, eta, token_scale, norm_weight, norm_bias, and a state with nothing open."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, scale=1.0):
        x = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
        return x.to(dtype).requires_grad_()

    inputs = [draw(B, T, H, D) for _ in "qkv"]
    inputs += [draw(B, T, H, scale=0.3), draw(M), draw(H, D), draw(H, D)]
    sizes = (D, D) if kind == "linear" else (D, E, D)
    state_dtype = torch.promote_types(dtype, torch.float32)
    weights = []
    for before, after in zip(sizes[:-1], sizes[1:], strict=True):
        weights += [draw(B, H, before, after, scale=0.3), draw(B, H, 1, after, scale=0.3)]
    return inputs, State(tuple(w.detach().to(state_dtype).requires_grad_() for w in weights))


def run(kind, inputs, state, backend="dual"):
    return OPS[kind](*inputs, state, mini_batch_size=len(inputs[4]), backend=backend)


def run_in_pieces(kind, inputs, state, cuts, backend="dual"):
    ys, start = [], 0
    for length in cuts:
        part = [x[:, start : start + length] for x in inputs[:4]] + inputs[4:]
        y, state = run(kind, part, state, backend)
        ys.append(y)
        start += length
    return torch.cat(ys, dim=1), state


def tensors(state):
    return [*state.weights, *state.open]


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("T, M", [(1, 1), (5, 1), (3, 4), (4, 4), (5, 4), (21, 4), (9, 16)])
def test_dual_equals_reference(kind, T, M):
    inputs, state = random_inner(kind, T, M)
    y, after = run(kind, inputs, state)
    y_slow, after_slow = run(kind, inputs, state, "reference")
    torch.testing.assert_close(y, y_slow, rtol=1e-12, atol=1e-12)
    assert after.filled == after_slow.filled == T % M
    torch.testing.assert_close(tensors(after), tensors(after_slow), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("cuts", [(1,) * 21, (3, 1, 9, 8), (20, 1), (4, 17), (2, 19)], ids=str)
@pytest.mark.parametrize("backend", ["dual", "reference"])
def test_any_cut_gives_the_same_output_and_state(kind, cuts, backend):
    inputs, state = random_inner(kind, T=21, M=4)
    y, after = run(kind, inputs, state)
    y_cut, after_cut = run_in_pieces(kind, inputs, state, cuts, backend)
    torch.testing.assert_close(y_cut, y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tensors(after_cut), tensors(after), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("cuts", [(21,), (3, 9, 1, 8)], ids=str)
def test_outer_gradients_of_dual_equal_those_of_reference(kind, cuts):
    inputs, state = random_inner(kind, T=21, M=4)
    leaves = [*inputs, *state.weights]

    def gradients(y, after):
        outputs = [y, *tensors(after)]
        loss = sum((x * torch.cos(torch.arange(x.numel()).view_as(x))).sum() for x in outputs)
        return torch.autograd.grad(loss, leaves)

    fast = gradients(*run_in_pieces(kind, inputs, state, cuts))
    slow = gradients(*run(kind, inputs, state, "reference"))
    torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", OPS)
def test_outer_gradcheck(kind):
    inputs, state = random_inner(kind, T=5, M=2)

    def outputs(*leaves):
        y, after = run(kind, list(leaves[:7]), State(leaves[7:]))
        return (y, *tensors(after))

    torch.autograd.gradcheck(outputs, (*inputs, *state.weights), fast_mode=True)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_closed_form_gradient_equals_torch_func_grad(depth):
    generator = torch.Generator().manual_seed(1)
    sizes = [D] + [7] * (depth - 1) + [D]
    weights = tuple(
        torch.randn(B, H, rows, after, generator=generator, dtype=torch.float64)
        for before, after in zip(sizes[:-1], sizes[1:], strict=True)
        for rows in (before, 1)
    )
    k, v = (torch.randn(B, H, 1, D, generator=generator, dtype=torch.float64) for _ in "kv")
    norm = tuple(torch.randn(H, 1, D, generator=generator, dtype=torch.float64) for _ in "gs")
    slow = torch.func.grad(inner.loss)(weights, k, v, norm)
    inputs, grads = inner.gradient(k, v, weights, norm)
    fast = [x for X, G in zip(inputs, grads, strict=True) for x in (X.mT @ G, G)]
    torch.testing.assert_close(list(slow), fast, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", OPS)
def test_a_later_token_changes_no_earlier_output(kind):
    inputs, state = random_inner(kind, T=21, M=4, dtype=torch.float32)
    y, _ = run(kind, inputs, state)
    changed = [x.detach().clone() for x in inputs]
    for x in changed[:4]:
        x[:, 10] += 1
    y_changed, _ = run(kind, changed, state)
    assert torch.equal(y[:, :10], y_changed[:, :10])
    assert (y[:, 10:] - y_changed[:, 10:]).abs().amax(dim=(0, 2, 3)).min() > 1e-3


@pytest.mark.parametrize("kind", OPS)
def test_sequences_and_heads_do_not_touch_each_other(kind):
    inputs, state = random_inner(kind, T=9, M=4, dtype=torch.float32)
    y, _ = run(kind, inputs, state)
    changed = [x.detach().clone() for x in inputs]
    for x in changed[:4]:
        x[1, :, 2] += 1
    y_changed, _ = run(kind, changed, state)
    same = torch.ones(B, H, dtype=torch.bool)
    same[1, 2] = False
    assert torch.equal(y.transpose(1, 2)[same], y_changed.transpose(1, 2)[same])
    assert not torch.equal(y[1, :, 2], y_changed[1, :, 2])


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_inputs_keep_a_float32_state(kind, dtype):
    inputs, state = random_inner(kind, T=9, M=4, dtype=dtype)
    y, after = run(kind, inputs, state)
    assert y.dtype == dtype
    assert all(x.dtype == torch.float32 for x in tensors(after))
    exact = [x.double() for x in inputs]
    y_exact, after_exact = run(kind, exact, state.map(torch.Tensor.double))
    torch.testing.assert_close(y.double(), y_exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-4)
    for x, x_exact in zip(tensors(after), tensors(after_exact), strict=True):
        torch.testing.assert_close(x.double(), x_exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", OPS)
def test_autocast_does_not_reach_the_inner_loop(kind):
    inputs, state = random_inner(kind, T=9, M=4, dtype=torch.float32)
    y, after = run(kind, inputs, state)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y_cast, after_cast = run(kind, inputs, state)
    assert torch.equal(y, y_cast)
    assert all(map(torch.equal, tensors(after), tensors(after_cast)))


def spoilt(position, value):
    inputs, state = random_inner("linear", T=3, M=4)
    inputs[position] = value
    return inputs, state


@pytest.mark.parametrize(
    "position, value, message",
    [
        (0, torch.zeros(2, 3, 6), r"q is torch.float32 of shape \(2, 3, 6\)"),
        (0, torch.zeros(B, 3, H, D, dtype=torch.long), "must be floats"),
        (1, torch.zeros(B, 3, H, 5), r"k is .*\(2, 3, 3, 5\); it must have q's shape"),
        (3, torch.zeros(B, H, 3, 1), r"eta is .*must be \(batch, tokens, heads\) = \(2, 3, 3\)"),
        (4, torch.zeros(5), r"token_scale is .*\(5,\); it must be \(mini_batch_size,\) = \(4,\)"),
        (5, torch.zeros(H, D, 1), r"norm_weight is .*must be \(heads, head dim\) = \(3, 6\)"),
    ],
)
def test_wrong_shapes_are_named(position, value, message):
    inputs, state = spoilt(position, value)
    with pytest.raises(ValueError, match=message):
        ttt_linear(*inputs, state, mini_batch_size=4)


def test_wrong_states_are_named():
    inputs, state = random_inner("linear", T=3, M=4)
    _, after = run("linear", inputs, state)
    for filled in (-1, 4, 7):
        wrong = State(after.weights, after.open, filled)
        with pytest.raises(ValueError, match=f"filled is {filled}; it must be from 0 to 3"):
            ttt_linear(*inputs, wrong, mini_batch_size=4)
    with pytest.raises(ValueError, match="with filled = 2 it must be"):
        ttt_linear(*inputs, State(after.weights, after.open, 2), mini_batch_size=4)
    with pytest.raises(ValueError, match="for this head dim they must be"):
        ttt_mlp(*inputs, state, mini_batch_size=4)
    with pytest.raises(ValueError, match="must be torch.float64"):
        ttt_linear(*inputs, state.map(torch.Tensor.float), mini_batch_size=4)
    with pytest.raises(ValueError, match="backend 'magic' is not one of"):
        ttt_linear(*inputs, state, mini_batch_size=4, backend="magic")


def test_reference_does_not_use_the_closed_form(monkeypatch):
    monkeypatch.setattr(inner, "gradient", None)
    monkeypatch.setattr(inner, "layer_norm_gradient", None)
    inputs, state = random_inner("linear", T=3, M=2)
    y, _ = reference.run(*inputs[:5], tuple(inputs[5:]), state)
    assert y.shape == (B, 3, H, D)


@pytest.mark.parametrize("name", ["kernels", "data", "apps"])
def test_a_room_imported_by_another_name_says_its_right_one(name, request):
    root = request.config.rootpath
    result = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=root, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert f"ImportError: this folder is the package tttvideo.{name}" in result.stderr
