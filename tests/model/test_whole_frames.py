"""Laws of mixers that read a frame as a whole: each token sees its frame and all before it."""

from dataclasses import replace

import pytest
import torch

from helpers.states import assert_same_state, leaves
from tttvideo.backbone import BackboneConfig
from tttvideo.mixers.attention import AttentionConfig
from tttvideo.mixers.gated_delta import GatedDeltaConfig
from tttvideo.mixers.linear_attention import LinearAttentionConfig
from tttvideo.mixers.mixer import Address


C, P, F = 16, 6, 5
SIZES = BackboneConfig(width=C, heads=2, grid=(2, 3))
ATTENTION = replace(SIZES, mixer="attention", attention=AttentionConfig(causal=False))
LINEAR = LinearAttentionConfig(causal=False)
CONFIGS = {
    "attention": ATTENTION,
    "window": replace(ATTENTION, attention=AttentionConfig(window=2 * P, causal=False)),
    "linear attention": replace(SIZES, mixer="linear_attention", linear_attention=LINEAR),
    "plain": replace(
        SIZES, mixer="linear_attention", linear_attention=replace(LINEAR, normalise=False)
    ),
    "gated delta": replace(SIZES, mixer="gated_delta", gated_delta=GatedDeltaConfig(causal=False)),
}
MIXERS = pytest.mark.parametrize("name", CONFIGS)
PLACE = pytest.mark.parametrize("place", [False, True], ids=["content", "place"])


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def new_layer(name, place=False):
    """A layer, frames x, and addresses or None."""
    torch.manual_seed(0)
    config = CONFIGS[name]
    layer = config.entry.mixer(C, config.heads, config.own, config.grid)
    for parameter in layer.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    address = Address(normal(2, F * P, C), normal(2, F * P, C)) if place else None
    return layer.double(), normal(2, F * P, C), address


def read(layer, x, address, state=None, begin=0, end=None):
    """Frames `begin` to `end` - 1 of x."""
    part = slice(begin * P, None if end is None else end * P)
    return layer(x[:, part], state, address and Address(*(y[:, part] for y in address)))


@MIXERS
@PLACE
@torch.no_grad()
def test_any_cut_between_frames_gives_the_same_output_and_state(name, place):
    given = new_layer(name, place)
    whole, after = read(*given)
    state, parts = None, []
    for begin, end in ((0, 1), (1, 2), (2, F)):
        y, state = read(*given, state, begin, end)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-9, atol=1e-9)
    assert_same_state(state, after)


@MIXERS
@PLACE
@torch.no_grad()
def test_a_token_sees_its_whole_frame_and_no_later_one(name, place):
    layer, x, address = new_layer(name, place)
    before, _ = read(layer, x, address)
    x = x.clone()
    x[:, 3 * P - 1] += 1  # the last token of the third frame
    changed = (read(layer, x, address)[0] - before).abs().amax((0, 2)) > 1e-6
    first = 2 * P
    assert not changed[:first].any()
    assert changed[first : first + P].all()


@MIXERS
@torch.no_grad()
def test_only_attention_over_all_frames_has_a_state_that_grows(name):
    given = new_layer(name)
    sizes = [
        sum(leaf.untyped_storage().nbytes() for leaf in leaves(read(*given, end=frames)[1]))
        for frames in (2, 3, 5)
    ]
    if name == "attention":  # a key and a value of each token
        assert sizes == [2 * 2 * C * 8 * P * frames for frames in (2, 3, 5)]
    else:
        assert sizes[0] == sizes[1] == sizes[2]


@MIXERS
def test_what_is_no_whole_frame_is_refused(name):
    layer, x, _ = new_layer(name)
    with pytest.raises(ValueError, match="8 tokens are no whole frames of 6"):
        layer(x[:, :8])
    config = CONFIGS[name]
    with pytest.raises(ValueError, match=f"{config.entry.field}.causal is false, which is for fr"):
        config.entry.mixer(C, 2, config.own)


def test_a_window_that_holds_no_frame_is_refused():
    config = AttentionConfig(window=P - 1, causal=False)
    with pytest.raises(ValueError, match="attention.window is 5; it must hold a frame of 6 tok"):
        ATTENTION.entry.mixer(C, 2, config, (2, 3))
