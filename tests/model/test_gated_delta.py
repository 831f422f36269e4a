"""Laws of the gated delta rule: chunks against token by token, what it recalls, its limits."""

import pytest
import torch
import torch.nn.functional as F

from tttvideo.kernels.baselines import linear_attention
from tttvideo.kernels.baselines.gated_delta import gated_delta, reference
from tttvideo.mixers.gated_delta import GatedDelta, GatedDeltaConfig


CHUNK = linear_attention.CHUNK
NAMES = "y", "memory after", "q", "k", "v", "log_keep", "rate", "memory"


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def operands(T, B=2, H=3, K=6, V=4, decay=0.1, dtype=torch.float64):
    """q, k, v, log_keep, rate, memory: the same float64 numbers, rounded to dtype."""
    torch.manual_seed(0)
    q, k, v = normal(B, H, T, K), F.normalize(normal(B, H, T, K), dim=-1), normal(B, H, T, V)
    log_keep, rate = -decay * normal(B, H, T).exp(), torch.rand(B, H, T, dtype=torch.float64)
    tensors = q, k, v, log_keep, rate, normal(B, H, K, V)
    return [tensor.to(dtype).requires_grad_() for tensor in tensors]


def results(form, inputs, **options):
    """Outputs, the memory after, and the gradient of every input through both."""
    y, memory = form(*inputs, **options)
    loss = (y.sin() * torch.arange(1, y.shape[2] + 1)[:, None]).mean() + memory.cos().sum()
    return [y, memory, *torch.autograd.grad(loss, inputs)]


def assert_close(found, true, tolerance=1e-10):
    for name, fast, exact in zip(NAMES, found, true, strict=True):
        torch.testing.assert_close(fast, exact, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("T", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 9])
def test_chunks_equal_token_by_token_and_so_does_every_gradient(T):
    inputs = operands(T)
    assert_close(results(gated_delta, inputs), results(reference, inputs))


@pytest.mark.parametrize("frame", [3, CHUNK + 6])
def test_a_token_reads_after_the_last_write_of_its_frame(frame):
    inputs = operands(2 * frame if frame > CHUNK else 30 * frame)
    assert_close(results(gated_delta, inputs, frame=frame), results(reference, inputs, frame=frame))
    for form in (gated_delta, linear_attention.linear_attention, linear_attention.reference):
        given = inputs[:3] + inputs[-1:] if form is not gated_delta else inputs
        y, memory = form(*given, frame=frame)
        torch.testing.assert_close(y[:, :, -frame:], inputs[0][:, :, -frame:] @ memory)


def test_a_memory_carries_the_gradient_back_across_two_calls():
    inputs = operands(90)

    def in_two(*inputs):
        *tokens, memory = inputs
        first, memory = gated_delta(*(x[:, :, :37] for x in tokens), memory)
        second, memory = gated_delta(*(x[:, :, 37:] for x in tokens), memory)
        return torch.cat((first, second), dim=2), memory

    assert_close(results(in_two, inputs), results(gated_delta, inputs))


def test_memories_whose_decays_underflow_are_exact():
    inputs = operands(150, decay=300)
    found = results(gated_delta, inputs)
    assert all(tensor.isfinite().all() for tensor in found)
    assert_close(found, results(reference, inputs))


def test_float32_loses_no_more_in_chunks_than_its_rounding():
    true = results(reference, operands(200, B=1))
    found = results(gated_delta, operands(200, B=1, dtype=torch.float32))
    for name, fast, exact in zip(NAMES, found, true, strict=True):
        assert (fast - exact).norm() <= 3e-6 * exact.norm(), name


def test_a_full_step_makes_the_memory_return_the_value_and_leaves_other_keys_alone():
    torch.manual_seed(0)
    k, v = torch.eye(4, dtype=torch.float64).expand(1, 1, 4, 4), normal(1, 1, 4, 5)
    ones = torch.ones(1, 1, 4, dtype=torch.float64)
    _, memory = gated_delta(k, k, v, 0 * ones, ones, normal(1, 1, 4, 5))
    torch.testing.assert_close(memory, v)
    again = normal(1, 1, 1, 5)
    k, one = k[:, :, :1], ones[..., :1]
    _, memory = gated_delta(k, k, again, 0 * one, one, memory)
    torch.testing.assert_close(memory, torch.cat((again, v[:, :, 1:]), dim=2))


def test_sizes_that_the_layer_cannot_have_are_refused():
    with pytest.raises(ValueError, match="width 7 is no multiple of 2 heads"):
        GatedDelta(7, 2, GatedDeltaConfig())
    with pytest.raises(ValueError, match="gated_delta.conv_kernel is 0; it must be 1 or more"):
        GatedDelta(8, 2, GatedDeltaConfig(conv_kernel=0))
