"""Laws of a memory that is addressed by place, for every mixer with q and k."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from helpers.states import assert_same_state
from tttvideo.backbone import BackboneConfig
from tttvideo.kernels import Packed
from tttvideo.mixers.mamba import MambaConfig
from tttvideo.mixers.mixer import Address


C, T = 16, 24
SIZES = BackboneConfig(width=C, heads=2, grid=(2, 2))
PLACE = replace(SIZES.ttt, address="place")
CONFIGS = {
    "ttt linear": replace(SIZES, ttt=PLACE),
    "ttt mlp": replace(SIZES, ttt=replace(PLACE, inner="mlp", backbone="transformer")),
    "attention": replace(SIZES, mixer="attention"),
    "linear attention": replace(SIZES, mixer="linear_attention"),
    "gated delta": replace(SIZES, mixer="gated_delta"),
    "mamba2": replace(SIZES, mixer="mamba2", mamba=MambaConfig(d_state=6, head_dim=8)),
}
MIXERS = pytest.mark.parametrize("name", CONFIGS)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def new_layer(name):
    torch.manual_seed(0)
    config = CONFIGS[name]
    layer = config.entry.mixer(C, config.heads, config.own, config.grid)
    for parameter in layer.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return layer.double(), normal(2, T, C), Address(normal(2, T, C), normal(2, T, C))


def part(address, begin, end):
    return Address(*(x[:, begin:end] for x in address))


@MIXERS
@torch.no_grad()
def test_any_cut_gives_the_same_output_and_state(name):
    layer, x, address = new_layer(name)
    whole, end = layer(x, None, address)
    state, parts = None, []
    for begin, stop in ((0, 3), (3, 4), (4, 16), (16, T)):
        y, state = layer(x[:, begin:stop], state, part(address, begin, stop))
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-9, atol=1e-9)
    assert_same_state(state, end)


@MIXERS
@torch.no_grad()
def test_a_memory_of_places_does_not_depend_on_when_they_were_seen(name):
    layer, x, (key, query) = new_layer(name)
    address = Address(key[:, :1].expand_as(key), query[:, :1].expand_as(query))
    q, k = layer_views(name, layer, x, address)
    for views in (q, k):
        torch.testing.assert_close(views, views[:, :1].expand_as(views))
    q, k = layer_views(name, layer, x, Address(key, key))
    torch.testing.assert_close(q, k)  # one projection


def layer_views(name, layer, x, address):
    if name.startswith("ttt"):
        return layer.views(x, Packed((layer.init_state(2),), (T,)), address)[:2]
    if name == "gated delta":
        q, k, *_ = layer.views(x, layer.init_state(2).tail, address)
        return q.transpose(1, 2), k.transpose(1, 2)
    if name == "mamba2":
        _, B, C, _ = layer.views(layer.in_proj(x), layer.init_state(2).tail, address)
        return C, B
    return layer.views(x, 0, address)[:2]


@torch.no_grad()
def test_attention_reads_the_content_of_the_place_that_is_asked_for():
    layer, x, (key, _) = new_layer("attention")
    layer.qkv_proj.weight[C : 2 * C] = torch.eye(C)
    key = 1e3 * F.normalize(key.unflatten(-1, (2, -1)), dim=-1).flatten(2)  # q k^T is the most at k
    seen = torch.tensor([0, 1, 0, 2, 3, 1, *range(6, T)])
    y, _ = layer(x, None, Address(key, key[:, seen]))
    v = layer.qkv_proj(x)[..., 2 * C :]
    torch.testing.assert_close(y[:, :6], layer.o_proj(v[:, seen[:6]]))


def test_a_layer_of_places_needs_an_address():
    layer, x, _ = new_layer("ttt linear")
    with pytest.raises(ValueError, match="ttt.address is place, and there is none"):
        layer(x)
