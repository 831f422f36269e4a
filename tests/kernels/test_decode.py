"""Laws of decoding in place: token by token it is the dual form, for each sequence alone."""

import pytest
import torch

from helpers.inner import OPS, part, random_gate, random_inner, run
from tttvideo.kernels import Slots, State, ttt_decode_
from tttvideo.kernels.dual import decode as dual_decode
from tttvideo.kernels.gpu import decode as triton_decode


DECODE = {"dual": dual_decode.decode_, "triton": triton_decode.decode_}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
DTYPES = list(TOLERANCE)[: 3 if DEVICE == "cuda" else 2]  # the interpreter's bfloat16 is wrong


def drawn(kind, T, M, D, B=2, H=2, dtype=torch.float32):
    """Inputs without gradients, q, k and v as views of one projection, eta of another."""
    inputs, state = random_inner(kind, T, M, D, B, H, dtype=dtype, device=DEVICE)
    q, k, v, eta, *shared = (x.detach() for x in inputs)
    q, k, v = torch.stack((q, k, v), dim=2).unbind(2)
    eta = eta.transpose(1, 2).contiguous().transpose(1, 2)
    return [q, k, v, eta, *shared], state.map(torch.Tensor.detach)


def truth(kind, inputs, state):
    """The dual form in float64, whatever the dtype of the tokens."""
    return run(kind, [x.double() for x in inputs], state.map(torch.Tensor.double))


@pytest.fixture(params=DECODE)
def backend(request):
    return request.param


def decode(backend, inputs, slots):
    ys = [DECODE[backend](*part(inputs, t, t + 1), slots) for t in range(inputs[0].shape[1])]
    return torch.cat(ys, dim=1)


def tensors(slots):
    return [*slots.weights, *slots.operands, *slots.rows, slots.places]


def assert_close(came, wanted, tolerance):
    """The root mean square of the error, relative to that of the wanted values."""
    error = (came.double() - wanted).norm() / wanted.norm()
    assert error <= tolerance, f"{error:.1e} > {tolerance:.0e}"


def assert_same_state(came, wanted, tolerance):
    assert came.filled == wanted.filled
    for x, y in zip((*came.weights, *came.open), (*wanted.weights, *wanted.open), strict=True):
        assert_close(x, y, tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "kind, D, M",
    [
        ("linear", 16, 16),
        ("linear", 64, 16),
        ("linear", 96, 3),
        ("linear", 128, 5),
        ("linear", 32, 1),
        ("mlp", 16, 5),
        ("mlp", 32, 16),
        ("mlp", 64, 2),
    ],
)
def test_token_by_token_equals_the_dual_form(kind, D, M, dtype, backend):
    inputs, state = drawn(kind, 2 * M + 2, M, D, B=1, dtype=dtype)
    y, after = truth(kind, inputs, state)
    slots = Slots.of(state, M, dtype)
    came = decode(backend, inputs, slots)
    assert came.dtype == dtype and came.is_contiguous()
    assert_close(came, y, TOLERANCE[dtype])
    assert_same_state(slots.to_state(), after, TOLERANCE[dtype])
    steps = [x.double() - w for x, w in zip(slots.weights, state.weights, strict=True)]
    wanted = [x - w for x, w in zip(after.weights, state.weights, strict=True)]
    for x, y in zip(steps, wanted, strict=True):
        assert_close(x, y, 2 * TOLERANCE[dtype])
    for operand, W in zip(slots.operands, slots.weights[::2], strict=True):
        assert torch.equal(operand, W.to(dtype))
        assert (operand.data_ptr() == W.data_ptr()) == (dtype == torch.float32)


@pytest.mark.parametrize("kind", OPS)
def test_slots_with_a_start_forget_as_the_dual_form_does(kind, backend):
    inputs, state = drawn(kind, T=10, M=4, D=16)
    gate = random_gate(state, 10)
    log_keep, start = gate["log_keep"].detach(), [w.detach() for w in gate["start"]]
    exact = {"log_keep": log_keep.double(), "start": [w.double() for w in start]}
    y, after = run(kind, [x.double() for x in inputs], state.map(torch.Tensor.double), **exact)
    slots = Slots.of(state, 4, torch.float32, start)
    ys = [
        DECODE[backend](*part(inputs, t, t + 1), slots, log_keep[:, t : t + 1]) for t in range(10)
    ]
    assert_close(torch.cat(ys, dim=1), y, 1e-6)
    assert_same_state(slots.to_state(), after, 1e-6)


@pytest.mark.parametrize("kind", OPS)
def test_decoding_continues_from_the_middle_of_a_mini_batch(kind, backend):
    inputs, state = drawn(kind, T=19, M=8, D=16)
    y, after = truth(kind, inputs, state)
    _, middle = OPS[kind](*part(inputs, 0, 11), state, mini_batch_size=8)
    slots = Slots.of(middle, 8, torch.float32)
    assert_close(decode(backend, part(inputs, 11, 19), slots), y[:, 11:], 1e-6)
    assert_same_state(slots.to_state(), after, 1e-6)


@pytest.mark.parametrize("kind", OPS)
def test_sequences_at_different_places_do_not_touch_each_other(kind, backend):
    M, begins = 4, (0, 3, 6)
    inputs, state = drawn(kind, T=12, M=M, D=16, B=3)
    alone = [[x[i : i + 1] for x in inputs[:4]] + inputs[4:] for i in range(3)]
    states = [State(tuple(w[i : i + 1] for w in state.weights)) for i in range(3)]
    slots = Slots.of(state, M, torch.float32)
    for i, begin in enumerate(begins):
        if begin:
            _, carried = OPS[kind](*part(alone[i], 0, begin), states[i], mini_batch_size=M)
            slots.put(i, carried)
    assert slots.filled.tolist() == [0, 3, 2]
    with pytest.raises(ValueError, match=r"places \[0, 2, 3\] of their mini-batches"):
        slots.to_state()
    tokens = [
        torch.cat([x[n][:, begin : begin + 6] for x, begin in zip(alone, begins, strict=True)])
        for n in range(4)
    ]
    came = decode(backend, tokens + inputs[4:], slots)
    for i, begin in enumerate(begins):
        y, after = truth(kind, part(alone[i], 0, begin + 6), states[i])
        assert_close(came[i : i + 1], y[:, begin:], 1e-6)
        assert_same_state(slots.state(i), after, 1e-6)


@pytest.mark.parametrize("kind", OPS)
def test_a_fresh_sequence_replaces_another(kind, backend):
    inputs, state = drawn(kind, T=9, M=4, D=16, B=3)
    slots = Slots.of(state, 4, torch.float32)
    decode(backend, part(inputs, 0, 3), slots)
    fresh = State(tuple(2 * w[2:] for w in state.weights))
    slots.put(-1, fresh)
    assert slots.filled.tolist() == [3, 3, 0]
    came = decode(backend, part(inputs, 3, 9), slots)
    for i, (start, begin) in enumerate([(state, 0), (state, 0), (fresh, 3)]):
        own = slice(i, i + 1) if begin == 0 else slice(0, 1)
        alone = [x[i : i + 1] for x in part(inputs, begin, 9)[:4]] + inputs[4:]
        y, after = truth(kind, alone, State(tuple(w[own] for w in start.weights)))
        assert_close(came[i : i + 1], y[:, 3 - begin :], 1e-6)
        assert_same_state(slots.state(i), after, 1e-6)


def test_decoding_leaves_no_graph_behind(backend):
    inputs, state = drawn("linear", T=3, M=2, D=16)
    learned = State(tuple(w.requires_grad_() for w in state.weights))
    slots = Slots.of(learned, 2, torch.float32)
    with torch.no_grad():
        decode(backend, inputs, slots)
    assert not any(x.requires_grad for x in tensors(slots))
    inputs[0].requires_grad_()
    slots = Slots.of(learned, 2, torch.float32)
    assert not ttt_decode_(*part(inputs, 0, 1), slots, backend="dual").requires_grad


@pytest.mark.parametrize("kind", OPS)
def test_strides_do_not_matter_and_a_second_run_gives_the_same_bits(kind, backend):
    inputs, state = drawn(kind, T=5, M=3, D=16)
    dense = [x.contiguous() for x in inputs]
    assert not any(x.is_contiguous() for x in inputs[:4])
    first, second = (Slots.of(state, 3, torch.float32) for _ in "ab")
    assert torch.equal(decode(backend, inputs, first), decode(backend, dense, second))
    assert all(map(torch.equal, tensors(first), tensors(second)))


@pytest.mark.parametrize("kind", OPS)
def test_rows_that_are_not_filled_are_not_read(kind, backend):
    inputs, state = drawn(kind, T=7, M=5, D=16, dtype=torch.float16)
    clean, poisoned = (Slots.of(state, 5, torch.float16) for _ in "ab")
    for x in poisoned.rows:
        x.fill_(torch.nan)
    assert torch.equal(decode(backend, inputs, clean), decode(backend, inputs, poisoned))
    assert all(map(torch.equal, clean.weights, poisoned.weights))


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("filled", [0, 3])
def test_slots_give_back_the_state_they_came_from(kind, filled):
    inputs, state = drawn(kind, T=5 + filled, M=5, D=16)
    _, state = OPS[kind](*inputs, state, mini_batch_size=5)
    slots = Slots.of(state, 5, torch.float32)
    for came in (slots.to_state(), slots.state(1)):
        lanes = slice(2) if len(came.weights[0]) == 2 else slice(1, 2)
        assert came.filled == state.filled == filled
        assert all(map(torch.equal, came.weights, (x[lanes] for x in state.weights)))
        assert all(map(torch.equal, came.open, (x[lanes] for x in state.open)))
    low = Slots.of(state, 5, torch.float16).to_state()
    assert all(map(torch.equal, low.weights, state.weights))
    assert all(torch.equal(x, y.half().float()) for x, y in zip(low.open, state.open, strict=True))


@pytest.mark.parametrize("kind", OPS)
def test_ttt_decode_takes_any_backend_and_names_wrong_arguments(kind):
    inputs, state = drawn(kind, T=20, M=16, D=32)
    y, after = truth(kind, inputs, state)
    for name in ("auto", "dual", "triton"):
        slots = Slots.of(state, 16, torch.float32)
        ys = [ttt_decode_(*part(inputs, t, t + 1), slots, backend=name) for t in range(20)]
        assert_close(torch.cat(ys, dim=1), y, 1e-6)
        assert_same_state(slots.to_state(), after, 1e-6)
    with pytest.raises(ValueError, match="decoding takes one token of torch.float32 at a time"):
        ttt_decode_(*part(inputs, 0, 2), slots)
    with pytest.raises(ValueError, match="'reference' reads States"):
        ttt_decode_(*part(inputs, 0, 1), slots, backend="reference")
    with pytest.raises(ValueError, match="token_scale is"):
        ttt_decode_(*part(inputs, 0, 1), Slots.of(state, 8, torch.float32))


def test_slots_and_states_share_no_memory(backend):
    inputs, state = drawn("linear", T=4, M=3, D=16)
    before = state.map(torch.clone)
    slots = Slots.of(state, 3, torch.float32)
    taken = slots.to_state()
    decode(backend, inputs, slots)
    for x in (state, taken):
        assert all(map(torch.equal, x.weights, before.weights))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES[-1:], ids=str)
def test_rounding_does_not_build_up_over_many_mini_batches(dtype, backend):
    T = 2048 if DEVICE == "cuda" else 512  # of one token each; the interpreter takes 20 s for 512
    inputs, state = drawn("linear", T=T, M=1, D=16, B=1, H=1, dtype=dtype)
    y, after = truth("linear", inputs, state)
    slots = Slots.of(state, 1, dtype)
    assert_close(decode(backend, inputs, slots), y, TOLERANCE[dtype])
    assert_same_state(slots.to_state(), after, TOLERANCE[dtype])


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="only a GPU can capture a CUDA graph")
@pytest.mark.parametrize("kind", OPS)
def test_a_cuda_graph_of_one_token_decodes_many(kind):
    inputs, state = drawn(kind, T=40, M=16, D=64, dtype=torch.bfloat16)
    slots, replayed, spare = (Slots.of(state, 16, torch.bfloat16) for _ in "abc")
    token = [x.clone() for x in part(inputs, 0, 1)]
    DECODE["triton"](*token, spare)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # a capture fails where the host would wait for the device
        y = DECODE["triton"](*token, replayed)
    for t in range(40):
        for mine, x in zip(token[:4], part(inputs, t, t + 1)[:4], strict=True):
            mine.copy_(x)
        graph.replay()
        assert torch.equal(y, DECODE["triton"](*token, slots))
    assert all(map(torch.equal, tensors(slots), tensors(replayed)))
