"""Laws of the figures of a memory."""

from functools import partial

import pytest
import torch

from helpers.models import small
from tttvideo.kernels import Packed
from tttvideo.measures.inner_loss import inner_losses, ttt_layers, watch_layers
from tttvideo.measures.layer_memory import MemoryFigures, capacity, memory_figures
from tttvideo.mixers.ttt import TTTConfig, TTTLayer
from tttvideo.states import state_bytes


M = 4


def figures_of(model, tokens, state=None):
    """Of every layer, for one call of the model."""
    layers, found = ttt_layers(model), {}
    watch_layers(layers, lambda place, call: found.update({place: (layers[place], call)}))
    _, after = model(tokens, state)
    watch_layers(layers, None)
    return [memory_figures(*found[place]) for place in range(len(layers))], after


@pytest.mark.parametrize("ttt", [{}, {"inner": "mlp"}, {"forget": True}, {"norm": False}], ids=str)
def test_figures_are_those_of_the_definition(ttt):
    model, tokens = small(ttt=ttt, std=0.1), torch.randint(31, (2, 3 * M))
    found, state = figures_of(model, tokens)
    losses = inner_losses(model, tokens)
    for figures, loss, layer, block in zip(
        found, losses, ttt_layers(model), state.blocks, strict=True
    ):
        assert figures.carry == pytest.approx(layer.token_scale()[-1].item())
        assert figures.loss_start == pytest.approx(loss.initial[-1])
        assert figures.loss_before == pytest.approx(loss.initial[-1])
        assert figures.loss_after == pytest.approx(loss.after[-1])
        W, W0 = block.mixer.inner.weights, layer.start()
        flat = torch.cat([(w - w0).flatten(1) for w, w0 in zip(W, W0, strict=True)], dim=1)
        assert figures.written == pytest.approx(flat.norm(dim=1).mean().item())
        assert figures.start == pytest.approx(torch.cat([w.flatten() for w in W0]).norm().item())
        assert (figures.keep < 1) == ("forget" in ttt)


def test_packed_sequences_give_the_figures_of_the_last():
    model, tokens = small(ttt={"forget": True}), torch.randint(31, (1, 9 + 2 * M))
    start = Packed((model.init_state(1),) * 2, (9, 2 * M))
    packed, _ = figures_of(model, tokens, start)
    alone, _ = figures_of(model, tokens[:, 9:])
    for a, b in zip(packed, alone, strict=True):
        assert a.written == pytest.approx(b.written)
        assert (a.loss_before, a.loss_after) == pytest.approx((b.loss_before, b.loss_after))


@pytest.mark.parametrize("carry, dead", [(0.25, False), (1e-9, True)])
def test_a_memory_without_a_carry_is_dead(carry, dead):
    model = small(ttt={"carry": carry}, std=0.1)
    found, _ = figures_of(model, torch.randint(31, (2, 8 * M)))
    assert [bool(figures.dead()) for figures in found] == [dead] * 2


def test_a_lane_whose_memory_has_nothing_to_learn_is_not_dead():
    W = {"carry": 1.0, "keep": 1.0, "written": 1.0, "start": 1.0}
    assert not MemoryFigures(**W, loss_start=1.0, loss_before=0.5, loss_after=0.5).dead()
    assert MemoryFigures(**W, loss_start=1.0, loss_before=2.0, loss_after=1.0).dead()


def test_room_and_size_count_every_head_of_every_block():
    make = partial(TTTLayer, 16, 2, grid=(4, 4))
    one, four = make(TTTConfig(causal=False)), make(TTTConfig(causal=False, blocks=4))
    assert (capacity(one), capacity(four)) == (2 * 8, 4 * 2 * 8)
    sizes = [state_bytes(layer.init_state(1).inner) for layer in (one, four)]
    assert sizes == [4 * 2 * (8 * 8 + 8), 4 * 4 * 2 * (8 * 8 + 8)]
