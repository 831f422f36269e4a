"""Laws of the inner loop: dual equals reference, for any cut, with every outer gradient."""

import subprocess
import sys

import pytest
import torch

from helpers.inner import OPS, random_inner, run, run_in_pieces, tensors
from tttvideo.kernels import State, autograd_loop, inner, reference, ttt_linear, ttt_mlp
from tttvideo.kernels.dual import forward, mlp
from tttvideo.kernels.dual import piece as dual


B, H, D, E = 2, 3, 6, 10


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


def gradients(outputs, inputs, state, **options):
    """Of a loss in which every element of the outputs has its own weight."""
    leaves = [x for x in (*inputs, *state.weights) if x.requires_grad]
    loss = sum((x * torch.cos(torch.arange(x.numel()).view_as(x))).sum() for x in outputs)
    return torch.autograd.grad(loss, leaves, **options)


def assert_same_gradients(fast, slow, tolerance):
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * max(1, b.abs().max().item()))


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("cuts", [(21,), (3, 9, 1, 8)], ids=str)
def test_outer_gradients_of_dual_equal_those_of_reference(kind, cuts):
    inputs, state = random_inner(kind, T=21, M=4)

    def of(y, after):
        return gradients([y, *tensors(after)], inputs, state)

    fast = of(*run_in_pieces(kind, inputs, state, cuts))
    slow = of(*run(kind, inputs, state, "reference"))
    torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("M, n", [(1, 4), (4, 1), (4, 8), (16, 2)])
def test_groups_of_mini_batches_change_nothing(kind, M, n, monkeypatch):
    inputs, state = random_inner(kind, T=11 * M, M=M)
    monkeypatch.setattr(forward, "GROUP", n * B * H * M * D)
    batches = forward.MiniBatches(*inputs[:1], *inputs[4:], state.weights, True)
    assert batches.n == n  # so 11 leave a remainder
    y, after = run(kind, inputs, state)
    y_slow, after_slow = run(kind, inputs, state, "reference")
    torch.testing.assert_close(y, y_slow, rtol=1e-12, atol=1e-12)
    fast = gradients([y, *after.weights], inputs, state)
    slow = gradients([y_slow, *after_slow.weights], inputs, state)
    assert_same_gradients(fast, slow, 1e-12)


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("part", ["output", "final state"])
def test_gradients_flow_from_the_output_alone_and_from_the_final_state_alone(kind, part):
    inputs, state = random_inner(kind, T=12, M=4)

    def of(y, after):
        outputs = [y] if part == "output" else after.weights
        return gradients(outputs, inputs, state, allow_unused=True, materialize_grads=True)

    fast = of(*run(kind, inputs, state))
    assert_same_gradients(fast, of(*run(kind, inputs, state, "reference")), 1e-12)


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("zero", ["eta", "token_scale", "last token_scale", "some of both"])
def test_zero_step_sizes_have_exact_gradients(kind, zero):
    inputs, state = random_inner(kind, T=12, M=4)
    eta, token_scale = inputs[3].detach(), inputs[4].detach()
    for x, index in {
        "eta": [(eta, ...)],
        "token_scale": [(token_scale, ...)],
        "last token_scale": [(token_scale, -1)],
        "some of both": [(eta, (0, slice(2, 9, 3))), (token_scale, slice(0, 2))],
    }[zero]:
        x[index] = 0
    fast, slow = (
        gradients([y, *after.weights], inputs, state)
        for y, after in (run(kind, inputs, state, backend) for backend in ("dual", "reference"))
    )
    assert_same_gradients(fast, slow, 1e-12)


@pytest.mark.parametrize("kind", OPS)
def test_a_graph_takes_two_backward_passes_but_has_no_second_derivative(kind):
    inputs, state = random_inner(kind, T=12, M=4)
    y, after = run(kind, inputs, state)
    first = gradients([y, *after.weights], inputs, state, retain_graph=True)
    again = gradients([y, *after.weights], inputs, state, retain_graph=True)
    assert all(map(torch.equal, first, again))
    with pytest.raises(RuntimeError, match="differentiate whole mini-batches once; use backend"):
        gradients([y], inputs, state, create_graph=True)


def test_only_what_needs_a_gradient_gets_one():
    inputs, state = random_inner("mlp", T=12, M=4)
    every = dict(
        zip("qkvetgs", gradients([run("mlp", inputs, state)[0]], inputs, state), strict=False)
    )
    for x in (*inputs[:2], *inputs[3:], *state.weights):
        x.requires_grad_(False)
    (v,) = gradients([run("mlp", inputs, state)[0]], inputs, state)
    assert torch.equal(v, every["v"])


@pytest.mark.parametrize("kind", OPS)
def test_strides_of_inputs_and_gradients_do_not_matter(kind):
    inputs, state = random_inner(kind, T=12, M=4)
    y, _ = run(kind, inputs, state)
    strided = [x.detach().transpose(1, 2).contiguous().transpose(1, 2) for x in inputs[:4]]
    strided = [x.requires_grad_() for x in strided] + inputs[4:]
    assert not any(x.is_contiguous() for x in strided[:4])
    y_strided, _ = run(kind, strided, state)
    assert torch.equal(y, y_strided)
    ones = torch.ones(()).to(y).expand_as(y)
    for a, b in zip(
        torch.autograd.grad(y, inputs, ones),
        torch.autograd.grad(y_strided, strided, ones + 0),
        strict=True,
    ):
        assert torch.equal(a, b)


def saved_bytes(kind, whole, sizes):
    """Bytes that autograd keeps of whole mini-batches, per byte of q, without the inputs."""
    b, t, h, d, m = sizes
    x = torch.randn(4, b, t, h, d).unbind()
    norm = torch.randn(2, h, d)
    widths = (d, d) if kind == "linear" else (d, 4 * d, d)
    weights = [
        torch.randn(b, h, rows, after)
        for before, after in zip(widths[:-1], widths[1:], strict=True)
        for rows in (before, 1)
    ]
    inputs = [*x[:3], x[3][..., 0].clone(), torch.rand(m), *norm.unbind(), *weights]
    inputs = [x.clone().requires_grad_() for x in inputs]
    own = {x.untyped_storage().data_ptr() for x in inputs}
    kept = {}

    def keep(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        y, _ = whole(*inputs[:7], State(tuple(inputs[7:])))
    return sum(n for storage, n in kept.items() if storage not in own) / x[0].nbytes


@pytest.mark.parametrize("kind, bound", [("linear", 2.3), ("mlp", 7.3)])
def test_the_backward_keeps_a_few_rows_per_token(kind, bound):
    sizes = (2, 512, 2, 16, 16)
    assert saved_bytes(kind, dual.whole, sizes) < bound
    assert saved_bytes(kind, autograd_loop.whole, sizes) > 6 * bound


@pytest.mark.parametrize("kind", OPS)
def test_without_gradients_nothing_is_kept(kind, monkeypatch):
    monkeypatch.setattr(forward, "record", None)
    inputs, state = random_inner(kind, T=12, M=4)
    with torch.no_grad():
        y, _ = run(kind, inputs, state)
    with torch.inference_mode():
        y_inference, _ = run(kind, inputs, state)
    y_plain, after = run(kind, [x.detach() for x in inputs], state.map(torch.Tensor.detach))
    assert torch.equal(y, y_plain) and torch.equal(y, y_inference)
    assert not y_plain.requires_grad and not after.weights[0].requires_grad


def relative_errors(inputs, state, exactly=dual.whole):
    """Of each gradient of the dual form in float32, against float64."""

    def of(whole, dtype):
        leaves = [x.detach().to(dtype).requires_grad_() for x in (*inputs, *state.weights)]
        y, after = whole(*leaves[:7], State(tuple(leaves[7:])))
        return gradients([y, *after.weights], leaves, State(()))

    both = zip(of(dual.whole, torch.float32), of(exactly, torch.float64), strict=True)
    return [((a - b).norm() / b.norm()).item() for a, b in both]


@pytest.mark.parametrize("kind", OPS)
def test_many_mini_batches_forward_and_backward_lose_no_digits(kind):
    inputs, state = random_inner(kind, T=1024, M=8, dtype=torch.float32)
    assert max(relative_errors(inputs, state, autograd_loop.whole)) < 1e-5


@pytest.mark.parametrize("kind", OPS)
def test_the_gradients_of_tokens_do_not_drift_in_32k_of_them(kind):
    inputs, state = random_inner(kind, T=32768, M=16, D=16, B=1, H=1, dtype=torch.float32)
    assert max(relative_errors(inputs, state)[:4]) < 2e-6


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("B, H, D, E", [(1, 1, 1, 1), (1, 2, 3, 1), (3, 1, 1, 5)])
def test_the_smallest_sizes_work(kind, B, H, D, E):
    inputs, state = random_inner(kind, T=6, M=2, B=B, H=H, D=D, E=E)
    fast, slow = (
        gradients([y, *after.weights], inputs, state)
        for y, after in (run(kind, inputs, state, backend) for backend in ("dual", "reference"))
    )
    assert_same_gradients(fast, slow, 1e-12)


def test_gelu_and_its_derivatives_equal_autograd():
    z = torch.linspace(-9, 9, 400, dtype=torch.float64).requires_grad_()
    y = inner.gelu(z)
    (slope,) = torch.autograd.grad(y.sum(), z, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), z)
    out = torch.empty_like(y)
    with torch.no_grad():
        fast = mlp.gelu(z, out, order=2)
    torch.testing.assert_close(out, y, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(fast[0], slope, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(fast[1] * mlp.CURVATURE, curve, rtol=1e-11, atol=1e-13)
    far = torch.tensor([-1e9, -1e4, 1e4, 1e9])
    slope, curve = mlp.gelu(far, torch.empty(4), order=2)
    assert slope.tolist() == [0, 0, 1, 1] and curve.tolist() == [0, 0, 0, 0]


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
    inputs, grads = inner.gradient(k, inner.affine(k, weights), v, weights, norm)
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


@pytest.mark.parametrize("kind", OPS)
def test_autocast_does_not_reach_the_backward(kind):
    inputs, state = random_inner(kind, T=8, M=4, dtype=torch.float32)
    y, after = run(kind, inputs, state)
    plain = gradients([y, *after.weights], inputs, state, retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = gradients([y, *after.weights], inputs, state)
    assert all(map(torch.equal, plain, cast))


def with_input(position, value):
    inputs, state = random_inner("linear", T=3, M=4)
    inputs[position] = value
    return inputs, state


@pytest.mark.parametrize(
    "position, value, message",
    [
        (0, torch.zeros(2, 3, 6), r"q is torch.float32 of shape \(2, 3, 6\)"),
        (0, torch.tensor(1.0), r"q is torch.float32 of shape \(\)"),
        (0, torch.zeros(B, 3, H, D, dtype=torch.long), "must be floats"),
        (1, torch.zeros(B, 3, H, 5), r"k is .*\(2, 3, 3, 5\); it must have q's shape"),
        (3, torch.zeros(B, H, 3, 1), r"eta is .*must be \(batch, tokens, heads\) = \(2, 3, 3\)"),
        (4, torch.zeros(5), r"token_scale is .*\(5,\); it must be \(mini_batch_size,\) = \(4,\)"),
        (5, torch.zeros(H, D, 1), r"norm_weight is .*must be \(heads, head dim\) = \(3, 6\)"),
    ],
)
def test_wrong_shapes_are_refused_by_name(position, value, message):
    inputs, state = with_input(position, value)
    with pytest.raises(ValueError, match=message):
        ttt_linear(*inputs, state, mini_batch_size=4)


def test_wrong_states_are_refused_by_name():
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
    y, _ = reference.read_tokens(*inputs, state)
    assert y.shape == (B, 3, H, D)


def test_transformers_may_look_for_another_package_called_kernels(request):
    """It imports `kernels` to ask for its version; from the root it finds this empty package."""
    code = "import kernels; assert not hasattr(kernels, 'State')"
    subprocess.run([sys.executable, "-c", code], cwd=request.config.rootpath, check=True)


@pytest.mark.parametrize("name", ["data", "apps"])
def test_a_folder_imported_by_another_name_names_the_right_one(name, request):
    root = request.config.rootpath
    result = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=root, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert f"ImportError: this folder is the package tttvideo.{name}" in result.stderr
