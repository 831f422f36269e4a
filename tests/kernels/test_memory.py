"""Laws of the forget gate and of reads of whole frames: the fast forms equal the reference."""

import math

import pytest
import torch

from helpers.inner import (
    OPS,
    part,
    random_gate,
    random_inner,
    run,
    run_in_pieces,
    sequences,
    tensors,
)
from tttvideo.kernels import Packed, Slots, autograd_loop, ttt_decode_
from tttvideo.kernels.dual import forward, piece


FORMS = ["gate", "frames", "gate and frames"]


def drawn(kind, form, T=20, M=4, **options):
    """Inputs, a state and the options of a form."""
    inputs, state = random_inner(kind, T, M, **options)
    memory = random_gate(state, T) if "gate" in form else {}
    return inputs, state, memory | {"causal": "frames" not in form}


def gradients(outputs, inputs, state, log_keep=None, start=(), causal=True):
    """Of a loss in which every element of the outputs has its own weight."""
    gate = [] if log_keep is None else [log_keep]
    loss = sum((x * torch.cos(torch.arange(x.numel()).view_as(x))).sum() for x in outputs)
    return torch.autograd.grad(loss, [*inputs, *state.weights, *gate, *start])


def assert_same(came, wanted, tolerance=1e-11):
    for a, b in zip(came, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * max(1, b.abs().max().item()))


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("form", FORMS)
def test_dual_equals_reference_with_every_gradient(kind, form):
    inputs, state, memory = drawn(kind, form)
    results = []
    for backend in ("dual", "reference"):
        y, after = run(kind, inputs, state, backend, **memory)
        outputs = [y, *after.weights]
        results.append([*outputs, *gradients(outputs, inputs, state, **memory)])
    assert_same(*results)


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [1, 4, 16])
def test_many_mini_batches_in_any_groups_equal_the_plain_loop(kind, form, n, monkeypatch):
    """Across kept states, in spans of several groups and groups of several spans, and with gates
    that keep all, a millionth or nothing.
    """
    inputs, state, memory = drawn(kind, form, T=4 * 37)
    B, _, H, D = inputs[0].shape
    monkeypatch.setattr(forward, "GROUP", n * B * H * 4 * D)
    if "gate" in form:
        with torch.no_grad():
            memory["log_keep"][:, 3::8] = 0
            memory["log_keep"][:, 7::24] = math.log(1e-6)
            memory["log_keep"][:, 11::40] = -math.inf
    results = []
    for whole in (piece.whole, autograd_loop.whole):
        y, after = whole(*inputs, state, **memory)
        outputs = [y, *after.weights]
        results.append([*outputs, *gradients(outputs, inputs, state, **memory)])
    assert_same(*results)


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("backend", ["dual", "reference"])
@pytest.mark.parametrize("cuts", [(3, 1, 9, 8), (1,) * 21, (20, 1)], ids=str)
def test_any_cut_forgets_the_same(kind, backend, cuts):
    inputs, state, memory = drawn(kind, "gate", T=21)
    results = []
    for lengths, name in ((cuts, backend), ((21,), "reference")):
        y, after = run_in_pieces(kind, inputs, state, lengths, name, **memory)
        outputs = [y, *tensors(after)]
        results.append([*outputs, *gradients(outputs, inputs, state, **memory)])
    assert_same(*results)


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("backend", ["dual", "reference"])
def test_frames_may_come_one_by_one(kind, backend):
    inputs, state, memory = drawn(kind, "gate and frames", T=12)
    y, after = run(kind, inputs, state, "reference", **memory)
    y_cut, after_cut = run_in_pieces(kind, inputs, state, (4, 8), backend, **memory)
    assert_same([y_cut, *after_cut.weights], [y, *after.weights])


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("form", FORMS)
def test_packed_sequences_equal_separate_calls_bit_for_bit(kind, form):
    inputs, state = random_inner(kind, T=20, M=4, B=1, S=2)
    memory = random_gate(state, 20) if "gate" in form else {}
    if memory:
        memory["log_keep"] = memory["log_keep"][:1]
    causal, lengths = "frames" not in form, (8, 12)
    y, after = run(kind, inputs, Packed(sequences(state), lengths), causal=causal, **memory)
    for begin, end, own, came in zip((0, 8), (8, 20), sequences(state), after.states, strict=True):
        keep = {"log_keep": memory["log_keep"][:, begin:end]} if memory else {}
        its = memory | keep | {"causal": causal}
        y_alone, alone = run(kind, part(inputs, begin, end), own, **its)
        assert torch.equal(y[:, begin:end], y_alone)
        assert all(map(torch.equal, came.weights, alone.weights))


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("backend", ["dual", "reference"])
def test_a_gate_of_one_is_the_paper_bit_for_bit(kind, backend):
    inputs, state, memory = drawn(kind, "gate", T=22, dtype=torch.float32)
    memory["log_keep"] = torch.zeros_like(memory["log_keep"])
    y, after = run(kind, inputs, state, backend)
    y_gated, after_gated = run(kind, inputs, state, backend, **memory)
    assert torch.equal(y, y_gated)
    assert all(map(torch.equal, tensors(after), tensors(after_gated)))


@pytest.mark.parametrize("kind", OPS)
def test_slots_forget_as_states_do(kind):
    inputs, state, memory = drawn(kind, "gate", T=11, dtype=torch.float32)
    log_keep = memory["log_keep"].detach()
    y, after = run(kind, inputs, state, **memory)
    slots = Slots.of(state, 4, torch.float32, memory["start"])
    ys = [
        ttt_decode_(*part(inputs, t, t + 1), slots, log_keep=log_keep[:, t : t + 1])
        for t in range(11)
    ]
    torch.testing.assert_close(torch.cat(ys, dim=1), y)
    torch.testing.assert_close(tensors(slots.to_state()), tensors(after))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"start": None}, "give both or neither"),
        ({"log_keep": None}, "give both or neither"),
        (
            {"log_keep": torch.zeros(2, 20, 1)},
            r"log_keep is .*\(2, 20, 1\); it must be .*\(2, 20, 3\)",
        ),
        ({"start": [torch.zeros(3, 6, 6)] * 2}, r"start is .*must be torch.float64 of shapes"),
    ],
)
def test_wrong_gates_are_refused_by_name(change, message):
    inputs, state, memory = drawn("linear", "gate")
    with pytest.raises(ValueError, match=message):
        OPS["linear"](*inputs, state, mini_batch_size=4, **(memory | change))


@pytest.mark.parametrize("filled, T", [(0, 7), (2, 6)])
def test_a_frame_must_be_a_whole_mini_batch(filled, T):
    inputs, state = random_inner("linear", T=T + filled, M=4)
    _, state = run("linear", part(inputs, 0, filled or 4), state)
    with pytest.raises(ValueError, match=rf"tokens begin at places \[{filled}\] of their"):
        run("linear", part(inputs, filled, filled + T), state, causal=False)


@pytest.mark.parametrize("kind", OPS)
def test_slots_at_different_places_forget_each_at_its_own(kind):
    inputs, state, memory = drawn(kind, "gate", T=9, dtype=torch.float32)
    log_keep, start = memory["log_keep"].detach(), memory["start"]
    ahead, own = [x[1:] for x in part(inputs, 0, 3)[:4]] + inputs[4:], sequences(state)[1]
    _, carried = run(kind, ahead, own, log_keep=log_keep[1:, :3], start=start)
    slots = Slots.of(state, 4, torch.float32, start)
    slots.put(1, carried)
    for t in range(6):
        tokens = [torch.cat((x[:1, t : t + 1], x[1:, t + 3 : t + 4])) for x in inputs[:4]]
        keep = torch.cat((log_keep[:1, t : t + 1], log_keep[1:, t + 3 : t + 4]))
        ttt_decode_(*tokens, *inputs[4:], slots, log_keep=keep)
    for i, T in ((0, 6), (1, 9)):
        alone = [x[i : i + 1] for x in part(inputs, 0, T)[:4]] + inputs[4:]
        its = {"log_keep": log_keep[i : i + 1, :T], "start": start}
        _, after = run(kind, alone, sequences(state)[i], **its)
        torch.testing.assert_close(tensors(slots.state(i)), tensors(after))
