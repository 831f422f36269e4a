"""Laws of the TTT layer's memory: the forget gate, reads after a whole frame, blocks of a frame."""

import math
from dataclasses import replace

import pytest
import torch

from helpers.states import assert_same_state, leaves, run_in_pieces
from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.kernels import Packed
from tttvideo.mixers.attention import AttentionConfig
from tttvideo.mixers.blocks import Blocks
from tttvideo.mixers.forget_gate import HALF_LIVES
from tttvideo.mixers.gated_delta import GatedDeltaConfig
from tttvideo.mixers.linear_attention import LinearAttentionConfig
from tttvideo.mixers.mixer import Address
from tttvideo.mixers.ttt import TTTConfig, TTTLayer


C, H, GRID = 16, 2, (2, 6)
P = GRID[0] * GRID[1]
INNER = pytest.mark.parametrize("inner", ["linear", "mlp"])
FRAMES = TTTConfig(causal=False, forget=True)
LAYERS = {
    "whole frame": replace(FRAMES, forget=False),
    "forget": FRAMES,
    "blocks": replace(FRAMES, blocks=4),
    "blocks mlp": replace(FRAMES, blocks=3, inner="mlp", backbone="transformer"),
    "place": replace(FRAMES, blocks=2, address="place"),
}
NAMES = pytest.mark.parametrize("name", LAYERS)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def new_layer(config, grid=GRID):
    torch.manual_seed(0)
    layer = TTTLayer(C, H, config, grid)
    for parameter in layer.parameters():  # nothing at zero, or a law could hold for nothing
        parameter.data += 0.2 * torch.randn_like(parameter)
    return layer.double()


class Placed(torch.nn.Module):
    """A layer with the addresses of all its tokens (B, F P, C), for runs in pieces."""

    def __init__(self, layer, frames):
        super().__init__()
        self.layer = layer
        self.address = Address(normal(2, frames * P, C), normal(2, frames * P, C))

    def forward(self, x, state=None):
        frame, state = state or (0, None)
        end = frame + x.shape[1]
        address = Address(*(y[: len(x), frame:end] for y in self.address))
        y, state = self.layer(x, state, address)
        return y, (end, state)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@NAMES
@torch.no_grad()
def test_frame_by_frame_equals_all_frames_at_once(name):
    layer, x = Placed(new_layer(LAYERS[name]), 7), normal(2, 7 * P, C)
    whole, end = layer(x)
    for cuts in ((P,) * 7, (2 * P, P, 4 * P)):
        y, state = run_in_pieces(layer, x, cuts)
        close(y, whole)
        assert_same_state(state[1], end[1])


@NAMES
@torch.no_grad()
def test_a_later_frame_changes_no_earlier_output_and_its_own_frame_does(name):
    layer, x = Placed(new_layer(LAYERS[name]), 5), normal(2, 5 * P, C)
    changed = x.clone()
    changed[:, 4 * P - 1] += 1  # the last token of the fourth frame
    before, after = layer(x)[0], layer(changed)[0]
    close(before[:, : 3 * P], after[:, : 3 * P])
    moved = (before != after).any(-1)
    own_block = 3 * P + (0 if LAYERS[name].blocks == 1 else P - 2)
    assert moved[:, own_block : 4 * P].all() and moved[:, 4 * P :].any()


@torch.no_grad()
def test_packed_frames_equal_separate_calls():
    layer, x = new_layer(LAYERS["blocks"]), normal(1, 5 * P, C)
    packed, after = layer.forward_packed(x, Packed((layer.init_state(1),) * 2, (3 * P, 2 * P)))
    parts = x.split((3 * P, 2 * P), dim=1), after.states
    for part, state, y in zip(*parts, packed.split((3 * P, 2 * P), dim=1), strict=True):
        alone, end = layer(part)
        close(y, alone)
        assert_same_state(state, end)


@NAMES
def test_lanes_carry_what_was_written_and_reach_the_start(name):
    layer, x = Placed(new_layer(LAYERS[name]), 4), normal(2, 4 * P, C)
    whole, _ = layer(x)
    first, (frame, state) = layer(x[:, : 2 * P])
    carry = layer.layer.detach_carry(state)
    assert not any(leaf.requires_grad for leaf in leaves(carry))
    second, _ = layer(x[:, 2 * P :], (frame, layer.layer.attach_carry(carry)))
    close(torch.cat((first, second), dim=1).detach(), whole.detach())
    second.square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in layer.layer.inner_weights)


@NAMES
def test_every_parameter_gets_a_gradient(name):
    layer, x = Placed(new_layer(LAYERS[name]), 4), normal(2, 4 * P, C)
    layer(x)[0].square().sum().backward()
    unused = [n for n, p in layer.named_parameters() if not p.grad.abs().sum() > 0]
    assert unused == []


@torch.no_grad()
def test_blocks_are_layers_that_see_a_part_of_the_frame_each():
    """Without convolutions, which mix tokens, and rotary positions, which depend on the frame."""
    config = replace(FRAMES, backbone="transformer", blocks=4, address="place")
    layer, x, address = new_layer(config), normal(2, 3 * P, C), [normal(2, 3 * P, C)] * 2
    y, state = layer(x, None, Address(*address))
    one = new_layer(replace(config, blocks=1), (1, 3))
    one.load_state_dict(layer.state_dict())
    parts = [Blocks(GRID, 2, 2).fold(z[:, :, None]) for z in (x, *address)]  # a block is a head
    columns = zip(*(z.unbind(2) for z in parts), strict=True)
    ys = [one(part[0], None, Address(*part[1:])) for part in columns]
    together = Blocks(GRID, 2, 2).unfold(torch.stack([y for y, _ in ys], dim=2))[:, :, 0]
    close(y, together)
    for place, weight in enumerate(state.inner.weights):
        close(weight, torch.cat([end.inner.weights[place] for _, end in ys], dim=1))


@INNER
@torch.no_grad()
def test_the_gate_keeps_a_share_of_what_was_learned(inner):
    """After a mini-batch, W - W0 is g times that of the same layer without forgetting."""
    layer = new_layer(TTTConfig(inner, mini_batch_size=4, forget=True), grid=None)
    plain = new_layer(TTTConfig(inner, mini_batch_size=4), grid=None)
    plain.load_state_dict({n: w for n, w in layer.state_dict().items() if "forget" not in n})
    x = normal(3, 4, C)
    g = torch.sigmoid(layer.forget.scores(x).mean(1))[..., None, None]
    (_, kept), (_, all_of_it) = layer(x), plain(x)
    for W, V, W0 in zip(kept.inner.weights, all_of_it.inner.weights, layer.start(), strict=True):
        close(W - W0, g * (V - W0))
    assert ((g > 0) & (g < 1)).all() and g.std() > 0


@pytest.mark.parametrize("decay", [1.0, 0.25])
def test_gates_start_at_half_lives_that_are_spread_over_the_heads(decay):
    for grid, half_lives in ((None, HALF_LIVES["text"]), (GRID, HALF_LIVES["frames"])):
        shortest, longest = (n / decay for n in half_lives)
        gate = TTTLayer(C, H, TTTConfig(forget=True, first_decay=decay), grid).forget
        g = torch.sigmoid(gate.scores(torch.randn(1, 1, C))[0, 0]).double()
        half_lives = math.log(0.5) / g.log()
        assert shortest < half_lives[0] < half_lives[1] < longest
        torch.testing.assert_close(
            half_lives.prod().sqrt().item(), math.sqrt(shortest * longest), rtol=1e-3, atol=0
        )


@torch.no_grad()
def test_blocks_of_a_frame_are_rectangles_and_unfold_to_the_frame():
    x = torch.arange(24).reshape(1, 24, 1)  # 2 frames of 2 x 6
    blocks = Blocks.of(GRID, 3)
    assert (blocks.down, blocks.across) == (1, 3)
    assert blocks.fold(x)[0, :4].T.tolist() == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    assert torch.equal(blocks.unfold(blocks.fold(x)), x)
    with pytest.raises(ValueError, match=r"20 tokens are no whole frames of \(2, 6\)"):
        blocks.fold(x[:, :20])
    with pytest.raises(ValueError, match="ttt.blocks is 5, and 2 x 6 tokens cannot be cut into 5"):
        Blocks.of(GRID, 5)


@pytest.mark.parametrize(
    "changes, grid, message",
    [
        ({"blocks": 2}, GRID, "ttt.blocks is 2, which needs a frame model: ttt.causal false"),
        ({"blocks": 2, "causal": False}, None, "ttt.blocks is 2, which needs a frame model"),
        ({"blocks": 0}, GRID, "ttt.blocks is 0; it must be 1 or more"),
        ({"carry": 0.0}, None, "ttt.carry is 0.0; it must be above 0"),
        ({"carry": 2.0, "learn_step": False}, None, "ttt.carry is 2.0, which needs ttt.learn_step"),
        ({"first_decay": 0.0}, None, "ttt.first_decay is 0.0; it must be above 0"),
        ({"forget": True, "norm": False}, None, "ttt.forget true needs ttt.norm true"),
        ({"causal": False, "norm": False}, None, "ttt.causal false needs ttt.norm true"),
        ({"causal": False, "mini_batch_size": 8}, GRID, "ttt.mini_batch_size is 8, which does not"),
        ({"causal": False, "mini_batch_size": 24}, GRID, "does not divide the 12 tokens of a fr"),
    ],
)
def test_parts_that_exclude_one_another_are_refused(changes, grid, message):
    with pytest.raises(ValueError, match=message):
        TTTLayer(C, H, TTTConfig(**changes), grid)


@pytest.mark.parametrize(
    "changes",
    [
        {"ttt": TTTConfig(causal=False)},
        {"ttt": TTTConfig(address="place")},
        {"mixer": "attention", "attention": AttentionConfig(causal=False)},
        {"mixer": "linear_attention", "linear_attention": LinearAttentionConfig(causal=False)},
        {"mixer": "gated_delta", "gated_delta": GatedDeltaConfig(causal=False)},
    ],
    ids=["ttt", "place", "attention", "linear attention", "gated delta"],
)
def test_a_backbone_of_tokens_refuses_what_frames_alone_have(changes):
    with pytest.raises(ValueError, match="is for the frame model"):
        Backbone(BackboneConfig(grid=GRID, **changes))


@NAMES
@torch.no_grad()
def test_the_memory_of_a_frame_model_does_not_grow(name):
    layer = Placed(new_layer(LAYERS[name]), 9)
    states = [layer(normal(2, frames * P, C))[1][1] for frames in (1, 9)]
    one, nine = ([x.untyped_storage().nbytes() for x in leaves(state)] for state in states)
    assert one == nine
