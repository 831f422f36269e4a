"""Laws of the operators: packed sequences, the choice of a backend, torch.compile."""

import logging
import subprocess
import sys
from itertools import pairwise

import pytest
import torch

from helpers.inner import OPS, part, random_gate, random_inner, sequences, tensors
from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.kernels import Packed, backends
from tttvideo.kernels.dual import piece as dual
from tttvideo.kernels.gpu import launch
from tttvideo.mixers.ttt import TTTConfig


WEIGHTS = {"linear": 2, "mlp": 4}
H, D, M = 2, 32, 16


def drawn(kind, T, **options):
    options = {"B": 1, "dtype": torch.float32, **options}
    return random_inner(kind, T, M, D, H=H, **options)


def read(kind, inputs, state, **options):
    return OPS[kind](*inputs, state, mini_batch_size=M, **options)


def advanced(kind, states, lengths):
    """The states, each after some tokens of its own, so that mini-batches are open."""
    after = []
    for s, (state, length) in enumerate(zip(states, lengths, strict=True)):
        inputs, _ = drawn(kind, max(length, 1), seed=10 + s)
        after.append(read(kind, inputs, state, backend="dual")[1] if length else state)
    return tuple(after)


def all_tensors(states):
    return [x for state in states for x in tensors(state)]


@pytest.mark.parametrize("backend", ["dual", "reference"])
@pytest.mark.parametrize("kind", OPS)
def test_packed_sequences_equal_separate_calls_bit_for_bit(kind, backend):
    borders = [0, 5, 37, 38, 70]
    inputs, start = drawn(kind, borders[-1], S=4)
    states = advanced(kind, sequences(start), [3, 0, 20, 15])
    leaves = [*inputs, *start.weights]

    def gradients(y, states):
        cotangents = torch.Generator().manual_seed(5)
        loss = sum(
            (x * torch.randn(x.shape, generator=cotangents)).sum()
            for x in (y, *all_tensors(states))
        )
        return torch.autograd.grad(loss, leaves, retain_graph=True)

    y, packed = read(kind, inputs, Packed(states, (5, 32, 1, 32)), backend=backend)
    after = packed.states
    alone = [
        read(kind, part(inputs, *ends), state, backend=backend)
        for ends, state in zip(pairwise(borders), states, strict=True)
    ]
    y_alone = torch.cat([y for y, _ in alone], dim=1)
    after_alone = [state for _, state in alone]
    assert torch.equal(y, y_alone)
    assert [s.filled for s in after] == [s.filled for s in after_alone] == [8, 0, 5, 15]
    assert all(map(torch.equal, all_tensors(after), all_tensors(after_alone)))
    # shared parameters gather the same addends through one graph, so they too are equal bit for bit
    assert all(map(torch.equal, gradients(y, after), gradients(y_alone, after_alone)))


@pytest.mark.parametrize("kind", OPS)
def test_nothing_leaks_from_one_packed_sequence_into_another(kind):
    inputs, state = drawn(kind, 40, S=2)
    packed = Packed(sequences(state), (19, 21))
    y, _ = read(kind, inputs, packed)
    for x in inputs[:4]:
        x.data[:, 3] += 1
    y_changed, _ = read(kind, inputs, packed)
    assert torch.equal(y[:, 19:], y_changed[:, 19:])
    assert not torch.equal(y[:, 3:19], y_changed[:, 3:19])


@pytest.mark.parametrize(
    "lengths, count, message",
    [
        ((5, 3), 2, r"lengths are \(5, 3\); they must be 1 or more and add up to the 9 tokens"),
        ((5, 0, 4), 3, "they must be 1 or more"),
        ((5, 4), 3, "state has 3 States; for 2 lengths it must have one each"),
        ((), 0, "add up to the 9 tokens"),
    ],
)
def test_wrong_packings_are_refused_by_name(lengths, count, message):
    inputs, state = drawn("linear", 9)
    with pytest.raises(ValueError, match=message):
        read("linear", inputs, Packed((state,) * count, lengths))


def test_a_packed_call_needs_one_row_and_a_packed_state():
    inputs, state = drawn("linear", 9, B=2)
    with pytest.raises(ValueError, match="batch of 2; with packed sequences it must be 1"):
        read("linear", inputs, Packed((state,), (9,)))
    with pytest.raises(ValueError, match="state is a list; it must be a State or a Packed"):
        read("linear", inputs, [state])


def test_the_choice_names_its_reason_and_logs_it_once(caplog):
    backends.log_choice.cache_clear()
    inputs, state = drawn("linear", 3)
    with caplog.at_level(logging.INFO, logger="tttvideo"):
        read("linear", inputs, state)
        read("linear", inputs, state)
    (line,) = caplog.messages
    assert line == (
        "backend dual (not triton: the tokens are on cpu, and the kernels run on CUDA GPUs)"
    )


@pytest.mark.parametrize(
    "dtype, D, M, E, reason",
    [
        (torch.float64, 16, 16, 64, "must all be bfloat16, float16 or float32"),
        (torch.float32, 48, 16, 192, "head dim 48 with mini-batches of 16; the kernels are built"),
        (torch.float32, 32, 8, 128, "head dim 32 with mini-batches of 8; the kernels are built"),
        (torch.float32, 32, 16, 64, "64 hidden features are not four times the head dim"),
    ],
)
def test_triton_names_the_reason_when_it_cannot_be_used(dtype, D, M, E, reason, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    tokens = (torch.zeros(1, 1, 1, D, dtype=dtype),) * 3
    weights = tuple(torch.zeros(1, 1, *shape) for shape in ((D, E), (1, E), (E, D), (1, D)))
    with pytest.raises(ValueError, match=f"backend 'triton' cannot serve: .*{reason}"):
        backends.choose_backend("triton", tokens, weights, M)
    assert backends.choose_backend("auto", tokens, weights, M)[0] == "dual"


def test_triton_is_refused_on_a_cpu_without_its_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    inputs, state = drawn("linear", 3)
    with pytest.raises(ValueError, match="the tokens are on cpu"):
        read("linear", inputs, state, backend="triton")


def test_a_machine_without_triton_uses_the_dual_form():
    program = (
        "import sys, importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'triton' else find(name, *a)\n"
        "sys.modules['triton'] = None\n"
        "import torch\n"
        "from tttvideo.kernels import State, ttt_linear\n"
        "x = torch.zeros(1, 4, 1, 16)\n"
        "state = State((torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 1, 16)))\n"
        "def read(backend):\n"
        "    return ttt_linear(x, x, x, x[..., 0], torch.ones(4), x[0, 0], x[0, 0], state,\n"
        "                      mini_batch_size=4, backend=backend)\n"
        "assert read('auto')[0].shape == x.shape\n"
        "try: read('triton')\n"
        "except ValueError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "cannot serve: the package triton is not installed" in result.stdout


@pytest.mark.parametrize("inner", OPS)
def test_a_model_compiles_into_one_graph(inner):
    config = BackboneConfig(
        width=32, depth=2, heads=2, vocab_size=11, ttt=TTTConfig(inner=inner, mini_batch_size=4)
    )
    torch.manual_seed(0)
    model = Backbone(config)
    tokens = torch.randint(11, (2, 14))
    logits, _ = model(tokens)
    logits.square().mean().backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    logits_compiled, _ = compiled(tokens)
    logits_compiled.square().mean().backward()
    torch.testing.assert_close(logits_compiled, logits)
    for p, grad in zip(model.parameters(), plain, strict=True):
        torch.testing.assert_close(p.grad, grad)
    with torch.no_grad():  # continues an open mini-batch
        (_, state), (_, state_compiled) = model(tokens), compiled(tokens)
        more, more_compiled = model(tokens, state)[0], compiled(tokens, state_compiled)[0]
    torch.testing.assert_close(more_compiled, more)


def check_operator(operator, kind, T, dtype, forms=((False, True),)):
    """torch's own checks: schema, fake results, autograd registration, ahead-of-time autograd."""
    inputs, state = drawn(kind, T, B=2, dtype=dtype)
    gate = random_gate(state, T)
    for gated, causal in forms:
        log_keep, start = (gate["log_keep"], list(gate["start"])) if gated else (None, [])
        memory = log_keep, list(state.weights), start
        checks = torch.library.opcheck(operator, (*inputs, *memory, None, causal, True))
        assert set(checks.values()) == {"SUCCESS"}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own check reads it
@pytest.mark.parametrize("kind", OPS)
def test_the_dual_operator_passes_the_checks_of_torch(kind):
    forms = (False, True), (True, False)  # with a gate, causal
    check_operator(dual.OPERATORS[WEIGHTS[kind]], kind, 2 * M, torch.float64, forms)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own check reads it
@pytest.mark.parametrize("kind", OPS)
def test_the_triton_operator_passes_the_checks_of_torch(kind):
    forms = [(False, True), (True, True)] if kind == "linear" else [(False, True)]
    check_operator(launch.OPERATORS[WEIGHTS[kind]], kind, M + 3, torch.float32, forms)


TRITON = [("linear", False), ("mlp", False), ("linear", True)]  # with a forget gate


def part_of(memory, begin, end):
    return memory and memory | {"log_keep": memory["log_keep"][:, begin:end]}


@pytest.mark.parametrize("kind, forget", [*TRITON, ("mlp", True)])
def test_triton_reads_any_cut_of_a_sequence(kind, forget):
    inputs, state = drawn(kind, 40)
    memory = random_gate(state, 40) if forget else {}
    y, after = read(kind, inputs, state, backend="dual", **memory)
    ys, carried = [], state
    for begin, end in ((0, 5), (5, 9), (9, 35), (35, 40)):
        own = part(inputs, begin, end), carried
        out, carried = read(kind, *own, backend="triton", **part_of(memory, begin, end))
        ys.append(out)
    assert carried.filled == after.filled == 8
    torch.testing.assert_close(torch.cat(ys, dim=1), y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tensors(carried), tensors(after), rtol=1e-4, atol=1e-5)


def test_a_state_keeps_nothing_of_the_tokens_it_has_read():
    inputs, state = drawn("linear", 5)
    with torch.no_grad():
        for backend in ("dual", "triton"):
            _, after = read("linear", inputs, state, backend=backend)
            before = after.open[0].clone()
            inputs[1].data.add_(1)
            assert torch.equal(after.open[0], before)


@pytest.mark.parametrize("kind, forget", TRITON)
def test_triton_reads_packed_sequences_as_the_dual_form_does(kind, forget):
    borders = [0, 5, 37, 38, 52]
    inputs, start = drawn(kind, borders[-1], S=4)
    states = advanced(kind, sequences(start), [3, 0, 20, 15])
    leaves, memory = [*inputs, *start.weights], {}
    if forget:
        memory = random_gate(start.map(lambda x: x[:1]), borders[-1])
        leaves += [memory["log_keep"], *memory["start"]]
    packed = Packed(states, (5, 32, 1, 14))

    def results(backend):
        y, after = read(kind, inputs, packed, backend=backend, **memory)
        cotangents = torch.Generator().manual_seed(5)
        outputs = [y, *all_tensors(after.states)]
        loss = sum((x * torch.randn(x.shape, generator=cotangents)).sum() for x in outputs)
        grads = torch.autograd.grad(loss, leaves, retain_graph=True)
        return [s.filled for s in after.states], outputs, grads

    (filled, outputs, grads), exact = results("triton"), results("dual")
    assert filled == exact[0]
    for x, x_exact in zip([*outputs, *grads], [*exact[1], *exact[2]], strict=True):
        assert (x - x_exact).norm() <= 1e-4 * x_exact.norm() + 1e-6


@pytest.mark.parametrize("inner", OPS)
def test_a_model_on_triton_compiles_into_one_graph(inner):
    ttt = TTTConfig(inner=inner, mini_batch_size=M, backend="triton")
    config = BackboneConfig(width=32, depth=1, heads=1, vocab_size=11, ttt=ttt)
    torch.manual_seed(0)
    model, tokens = Backbone(config), torch.randint(11, (2, M + 3))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    logits, _ = compiled(tokens)
    logits.square().mean().backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    plain, _ = model(tokens)
    plain.square().mean().backward()
    torch.testing.assert_close(logits, plain)
    for p, grad in zip(model.parameters(), grads, strict=True):
        torch.testing.assert_close(p.grad, grad)
