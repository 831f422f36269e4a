"""Laws of the Mamba baselines: scans against references, cuts, causality, sizes, initialisation."""

import inspect
import weakref
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from helpers.states import run_in_pieces
from tttvideo.kernels.baselines import selective_scan as mamba1
from tttvideo.kernels.baselines import ssd as mamba2
from tttvideo.mixers import mamba
from tttvideo.mixers.mamba import Mamba, Mamba2, MambaConfig, choose_backend
from tttvideo.states import stack, unstack


MIXERS = [Mamba, Mamba2]
both = pytest.mark.parametrize("mixer", MIXERS, ids=lambda mixer: mixer.__name__)
NAMES = ("x", "dt", "A", "B", "C", "D", "state")


def random_mamba1(b, T, E=5, N=3, dtype=torch.float64, seed=0):
    """x, dt, A, B, C, D, state of a scan: the same float64 numbers, rounded to dtype."""
    torch.manual_seed(seed)
    shapes = [(b, T, E), (b, T, E), (E, N), (b, T, N), (b, T, N), (E,), (b, E, N)]
    return signed(shapes, dtype)


def random_mamba2(b, T, H=3, P=4, N=5, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    shapes = [(b, T, H, P), (b, T, H), (H,), (b, T, N), (b, T, N), (H,), (b, N, H, P)]
    return signed(shapes, dtype)


def signed(shapes, dtype):
    x, dt, A, *others = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    inputs = [x, F.softplus(dt - 2), -A.exp(), *others]
    return [tensor.to(dtype).requires_grad_() for tensor in inputs]


SCANS = pytest.mark.parametrize(
    ("reference", "scan", "inputs"),
    [
        (mamba1.reference, mamba1.selective_scan, random_mamba1),
        (mamba2.reference, mamba2.ssd, random_mamba2),
    ],
    ids=["mamba1", "mamba2"],
)


def results(scan, inputs):
    """Outputs, the state after, and the gradient of every input through both."""
    y, state = scan(*inputs)
    loss = (y.sin() * torch.arange(1, y.shape[1] + 1).view(-1, *[1] * (y.ndim - 2))).mean()
    return [y, state, *torch.autograd.grad(loss + state.cos().sum(), inputs)]


def new_layer(mixer, dtype=torch.float64, width=12, seed=0, **options):
    torch.manual_seed(seed)
    return mixer(width, 2, MambaConfig(d_state=5, head_dim=8, **options)).to(dtype)


@SCANS
@pytest.mark.parametrize("T", [1, 2, 63, 64, 65, 150])
def test_the_fast_scan_equals_the_reference_and_so_does_every_gradient(reference, scan, inputs, T):
    inputs = inputs(2, T)
    names = ("y", "state after", *NAMES)
    for name, fast, true in zip(
        names, results(scan, inputs), results(reference, inputs), strict=True
    ):
        torch.testing.assert_close(fast, true, atol=1e-10, rtol=1e-10, msg=name)


@SCANS
def test_float32_loses_no_more_in_the_fast_scan_than_its_rounding(reference, scan, inputs):
    true = results(reference, inputs(1, 200))
    for name, fast, exact in zip(
        ("y", "state after", *NAMES),
        results(scan, inputs(1, 200, dtype=torch.float32)),
        true,
        strict=True,
    ):
        assert (fast - exact).norm() <= 3e-6 * exact.norm(), name


@SCANS
def test_decays_whose_product_underflows_are_exact(reference, scan, inputs):
    x, dt, A, *others = inputs(1, 150)
    inputs = [x, dt, (A * 1000).detach().requires_grad_(), *others]
    for fast, true in zip(results(scan, inputs), results(reference, inputs), strict=True):
        assert fast.isfinite().all()
        torch.testing.assert_close(fast, true, atol=1e-10, rtol=1e-10)


@SCANS
def test_a_state_carries_the_gradient_back_across_two_scans(reference, scan, inputs):
    x, dt, A, B, C, D, state = inputs = inputs(2, 90)

    def in_two(x, dt, A, B, C, D, state):
        first, middle = scan(x[:, :37], dt[:, :37], A, B[:, :37], C[:, :37], D, state)
        second, last = scan(x[:, 37:], dt[:, 37:], A, B[:, 37:], C[:, 37:], D, middle)
        return torch.cat((first, second), dim=1), last

    for parts, whole in zip(results(in_two, inputs), results(scan, inputs), strict=True):
        torch.testing.assert_close(parts, whole, atol=1e-11, rtol=1e-11)


@SCANS
def test_a_scan_whose_outputs_are_dropped_frees_them_at_once(reference, scan, inputs):
    y, state = scan(*inputs(1, 70))
    outputs = [weakref.ref(tensor) for tensor in (y, state)]
    del y, state
    assert all(output() is None for output in outputs)


def test_a_scan_keeps_one_state_per_tile_for_its_backward():
    x, dt, A, B, C, _, state = random_mamba1(1, 3 * mamba1.TILE + 1)
    y, _ = mamba1.SelectiveScan.apply(dt, dt * x, A, B, C, state)
    assert len(y.grad_fn.starts) == 4
    x, dt, A, B, C, _, state = random_mamba2(1, 3 * mamba2.CHUNK + 1)
    y, _ = mamba2.SSD.apply(dt * A, dt[..., None] * x, B, C, state)
    assert len(y.grad_fn.starts) == 4


@both
@pytest.mark.parametrize("cuts", [(1,) * 71, (70, 1), (3, 1, 67), (64, 7)], ids=len)
def test_any_cut_gives_the_same_output_and_state(mixer, cuts):
    layer, x = new_layer(mixer), torch.randn(2, 71, 12, dtype=torch.float64)
    with torch.no_grad():
        whole, last = layer(x)
        y, state = run_in_pieces(layer, x, cuts)
    torch.testing.assert_close(y, whole, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(state.ssm, last.ssm, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(state.tail, last.tail, atol=1e-12, rtol=1e-10)


@both
def test_any_cut_gives_the_same_outer_gradients(mixer):
    layer, x = new_layer(mixer), torch.randn(2, 71, 12, dtype=torch.float64)
    grads = []
    for cuts in (71, (3, 1, 67)):
        y, state = run_in_pieces(layer, x, cuts)
        loss = y.sin().sum() + state.ssm.cos().sum()
        grads.append(torch.autograd.grad(loss, list(layer.parameters())))
    for name, whole, parts in zip(dict(layer.named_parameters()), *grads, strict=True):
        assert whole.abs().max() > 0, name
        torch.testing.assert_close(parts, whole, atol=1e-12, rtol=1e-10, msg=name)


@both
def test_a_later_token_changes_no_earlier_output(mixer):
    layer, x = new_layer(mixer), torch.randn(1, 80, 12, dtype=torch.float64)
    other = x.clone()
    other[:, 66] += 1
    with torch.no_grad():
        y, changed = layer(x)[0], layer(other)[0]
    assert torch.equal(y[:, :66], changed[:, :66])
    assert ((y - changed)[0, 66:].abs().amax(1) > 0).all()


@both
def test_batch_rows_do_not_touch_each_other(mixer):
    layer, x = new_layer(mixer), torch.randn(3, 70, 12, dtype=torch.float64)
    with torch.no_grad():
        begun = layer(x[:, :9])[1]
        y, state = layer(x[:, 9:], begun)
        alone = [layer(*one) for one in zip(x[:, 9:].split(1), unstack(begun, 3), strict=True)]
    torch.testing.assert_close(y, torch.cat([one for one, _ in alone]), atol=1e-13, rtol=1e-10)
    torch.testing.assert_close(state.ssm, stack([s for _, s in alone]).ssm, atol=1e-13, rtol=1e-10)


@both
def test_the_size_of_the_state_does_not_depend_on_how_much_was_read(mixer):
    layer = new_layer(mixer)
    shapes = set()
    for T in (1, 2, 70):
        state = layer(torch.randn(2, T, 12, dtype=torch.float64))[1]
        shapes.add((state.tail.shape, state.ssm.shape))
        for tensor in (state.tail, state.ssm):  # no view that keeps all of T alive
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    start = layer.init_state(2)
    assert shapes == {(start.tail.shape, start.ssm.shape)}


@both
def test_a_call_changes_no_state_given_to_it(mixer):
    layer, x = new_layer(mixer), torch.randn(1, 9, 12, dtype=torch.float64)
    _, state = layer(x)
    before = state.tail.clone(), state.ssm.clone()
    layer(x, state)[0].sum().backward()
    assert torch.equal(state.tail, before[0]) and torch.equal(state.ssm, before[1])


@both
def test_the_state_stays_float32_under_bfloat16_and_the_output_stays_close(mixer):
    layer, x = new_layer(mixer, torch.float32, width=32), torch.randn(2, 100, 32)
    y, state = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        rough, rough_state = layer(x)
        again, _ = layer(x, rough_state)
    (rough.float().sum() + again.float().sum()).backward()
    assert rough.dtype == torch.bfloat16 and rough_state.ssm.dtype == torch.float32
    assert (rough - y).norm() <= 0.03 * y.norm()
    assert (rough_state.ssm - state.ssm).norm() <= 0.03 * state.ssm.norm()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@both
def test_a_carried_state_has_the_numbers_without_the_history(mixer):
    layer = new_layer(mixer)
    _, state = layer(torch.randn(1, 9, 12, dtype=torch.float64))
    carried = layer.attach_carry(layer.detach_carry(state))
    assert torch.equal(carried.ssm, state.ssm) and torch.equal(carried.tail, state.tail)
    assert state.ssm.requires_grad
    assert not carried.ssm.requires_grad and not carried.tail.requires_grad


@both
def test_first_step_sizes_lie_between_a_thousandth_and_a_tenth_evenly_by_logarithm(mixer):
    torch.manual_seed(0)
    layer = mixer(256, 1, MambaConfig(head_dim=1))
    steps = F.softplus(layer.dt_bias.double()).log10()
    assert -3.001 <= steps.min() < -2.95 and -1.05 < steps.max() <= -0.999
    assert abs(steps.mean() + 2) < 0.1 and abs((steps < -2).double().mean() - 0.5) < 0.08


def test_mamba_decays_by_the_whole_numbers_and_mamba2_by_a_rate_between_1_and_16():
    torch.manual_seed(0)
    rates = Mamba(16, 1, MambaConfig()).A_log.exp()
    torch.testing.assert_close(rates, torch.arange(1.0, 17).expand(32, 16))
    rates = Mamba2(256, 1, MambaConfig(head_dim=1)).A_log.exp()
    assert 1 <= rates.min() < 1.2 and 15.8 < rates.max() <= 16 and abs(rates.mean() - 8.5) < 0.7
    weight = Mamba(64, 1, MambaConfig()).dt_weight  # rank 4
    assert 0.45 < weight.abs().max() <= 0.5


def test_mamba_130m_has_the_published_number_of_parameters():
    mixer = sum(p.numel() for p in Mamba(768, 1, MambaConfig()).parameters())
    into, conv, choose, step = 768 * 3072, 1536 * 5, 1536 * (48 + 2 * 16), (48 + 1) * 1536
    assert mixer == into + conv + choose + step + 1536 * 16 + 1536 + 1536 * 768
    assert 24 * (mixer + 768) + 50280 * 768 + 768 == 129_135_360  # norms and a tied embedding


def test_mamba2_130m_has_the_parameters_of_its_formula():
    mixer = sum(p.numel() for p in Mamba2(768, 1, MambaConfig()).parameters())
    into, conv = 768 * (2 * 1536 + 2 * 128 + 24), (1536 + 2 * 128) * 5
    assert mixer == into + conv + 3 * 24 + 1536 + 1536 * 768


def test_mamba2_without_decay_and_skip_is_a_sum_over_all_earlier_tokens():
    x, dt, A, B, C, D, state = (tensor.detach() for tensor in random_mamba2(1, 130))
    y, _ = mamba2.ssd(x, dt, A * 0, B, C, D * 0, state * 0)
    scores = torch.einsum("btn,bsn->bts", C, B).tril()
    torch.testing.assert_close(y, torch.einsum("bts,bsh,bshp->bthp", scores, dt, x))


@pytest.mark.parametrize("name", ["d_state", "expand", "conv_kernel", "head_dim"])
@both
def test_a_nonsense_size_is_refused(mixer, name):
    with pytest.raises(ValueError, match=f"mamba.{name} is 0; it must be 1 or more"):
        mixer(16, 1, MambaConfig(**{name: 0}))


def test_a_head_dim_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"head_dim 48 does not divide the 64 inner features"):
        Mamba2(32, 1, MambaConfig(head_dim=48))


@both
def test_the_package_is_refused_with_the_reason_where_it_cannot_serve(mixer, monkeypatch):
    layer, x = new_layer(mixer, torch.float32, backend="mamba_ssm"), torch.randn(1, 3, 12)
    for installed, reason in ((False, "is not installed"), (True, "run on CUDA GPUs")):
        monkeypatch.setattr(mamba, "INSTALLED", installed)
        with pytest.raises(ValueError, match=f"backend 'mamba_ssm' cannot serve: .*{reason}"):
            layer(x)
    with pytest.raises(ValueError, match="'cuda' is not one of auto, torch, mamba_ssm"):
        new_layer(mixer, backend="cuda")


def test_the_package_serves_on_a_gpu_what_it_can_and_auto_falls_back_where_it_cannot(monkeypatch):
    monkeypatch.setattr(mamba, "INSTALLED", True)
    single, double = (
        SimpleNamespace(is_cuda=True, dtype=d) for d in (torch.float32, torch.float64)
    )
    for backend in ("auto", "mamba_ssm"):
        assert choose_backend(backend, single) == "mamba_ssm"
    for x, own, reason in ((single, "it is begun", "it is begun"), (double, None, "no float64")):
        assert choose_backend("auto", x, own) == "torch"
        with pytest.raises(ValueError, match=f"cannot serve: .*{reason}; use 'auto' or 'torch'"):
            choose_backend("mamba_ssm", x, own)


@both
def test_auto_logs_once_which_backend_serves_and_why(mixer, monkeypatch, caplog):
    monkeypatch.setattr(mamba, "INSTALLED", True)
    mamba.log_choice.cache_clear()
    layer, x = new_layer(mixer, torch.float32), torch.randn(1, 3, 12)
    with caplog.at_level("INFO", logger="tttvideo"):
        layer(x)
        layer(x)
    assert [r.message for r in caplog.records] == [
        "backend torch (not mamba_ssm: the tokens are on cpu, and its kernels run on CUDA GPUs)"
    ]


def test_every_field_of_the_config_has_its_sentence():
    source = inspect.getsource(MambaConfig)
    for field in MambaConfig.__dataclass_fields__:
        assert f"\n    {field}: " in source
        assert source.split(f"\n    {field}: ")[1].split("\n")[1].strip().startswith('"""')


@pytest.mark.gpu
@pytest.mark.skipif(
    not (torch.cuda.is_available() and mamba.INSTALLED),
    reason="needs a CUDA GPU and the package mamba_ssm",
)
@both
def test_the_package_equals_the_torch_form(mixer):
    torch.manual_seed(0)
    x = torch.randn(2, 300, 64, device="cuda")
    layers = [mixer(64, 1, MambaConfig(backend=b)).cuda() for b in ("torch", "mamba_ssm")]
    layers[1].load_state_dict(layers[0].state_dict())
    torch_form, package = (layer(x) for layer in layers)
    torch.testing.assert_close(package[0], torch_form[0], atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(package[1].ssm, torch_form[1].ssm, atol=2e-3, rtol=2e-3)
    for y, _ in (torch_form, package):
        y.square().mean().backward()
    for name, parameter in layers[0].named_parameters():
        other = dict(layers[1].named_parameters())[name]
        assert (other.grad - parameter.grad).norm() <= 5e-3 * parameter.grad.norm(), name
