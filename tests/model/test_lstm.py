"""Laws of the LSTM: its formulas, and a state for every place of a frame."""

from dataclasses import replace

import pytest
import torch

from helpers.states import assert_same_state
from tttvideo.mixers.lstm import LSTM, LSTMConfig, LSTMState, reference


C, P, F = 7, 6, 5
FRAMES = LSTMConfig(hidden=9, causal=False)


def new_layer(config, grid=None):
    torch.manual_seed(0)
    return LSTM(C, 1, config, grid).double()


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def test_an_lstm_equals_its_formulas_and_so_does_every_gradient():
    layer, x, h, c = new_layer(LSTMConfig(hidden=9)), normal(2, 11, C), normal(2, 9), normal(2, 9)
    given = x, h, c, *layer.lstm.parameters()
    y, after = layer(x, LSTMState(h, c))
    true, *last = reference(layer.lstm, x, h, c)
    found, wanted = (y, after.h, after.c), (layer.o_proj(true), *last)
    grads = []
    for results in (found, wanted):
        loss = sum(result.sin().sum() for result in results)
        grads.append(torch.autograd.grad(loss, given))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_every_place_of_a_frame_has_a_state_of_its_own():
    layer, x = new_layer(FRAMES, grid=(2, 3)), normal(2, F * P, C)
    y, state = layer(x)
    alone = replace(FRAMES, causal=None)
    one = new_layer(alone)
    one.load_state_dict(layer.state_dict())
    for place in range(P):
        part, after = one(x[:, place::P])
        torch.testing.assert_close(y[:, place::P], part)
        torch.testing.assert_close(state.c[:, place], after.c)


@torch.no_grad()
def test_any_cut_between_frames_gives_the_same_output_and_state():
    layer, x = new_layer(FRAMES, grid=(2, 3)), normal(2, F * P, C)
    whole, end = layer(x)
    first, state = layer(x[:, : 2 * P])
    second, state = layer(x[:, 2 * P :], state)
    torch.testing.assert_close(torch.cat((first, second), dim=1), whole)
    assert_same_state(state, end)
    assert state.h.shape == layer.init_state(2).h.shape == (2, P, 9)


def test_a_layer_has_as_many_weights_as_attention():
    for width in (64, 768, 2048):
        layer = LSTM(width, 1, LSTMConfig())
        assert sum(p.numel() for p in layer.parameters()) == pytest.approx(4 * width**2, rel=0.05)


def test_what_the_layer_cannot_have_is_refused():
    with pytest.raises(ValueError, match="lstm.hidden is 0; it must be 1 or more"):
        LSTM(C, 1, LSTMConfig(hidden=0))
    with pytest.raises(ValueError, match="8 tokens are no whole frames of 6"):
        new_layer(FRAMES, grid=(2, 3))(torch.zeros(1, 8, C).double())
