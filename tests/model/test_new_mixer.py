"""One class and one entry add a mixer: all parts of the package then know it."""

from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.states import assert_same_state
from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.kernels import Packed
from tttvideo.measures.flops import flops_per_token
from tttvideo.measures.names import mixer_name
from tttvideo.mixers import registry
from tttvideo.mixers.mixer import Mixer
from tttvideo.states import from_plain, state_dataclass, to_plain
from tttvideo.training.tokens import functional
from tttvideo.weights.checkpoints import (
    TokenCheckpoint,
    backbone_config,
    load_tokens_model,
    save_tokens_model,
)


@state_dataclass
class ToyState:
    total: torch.Tensor
    seen: int


class Toy(Mixer):
    """The mean of all tokens so far; it shares the config of linear attention."""

    def __init__(self, width, heads, config, grid=None):
        super().__init__()
        self.proj = nn.Linear(width, width)

    def init_state(self, batch):
        return ToyState(self.proj.weight.new_zeros(batch, 1, self.proj.in_features), 0)

    def forward(self, x, state):
        total = state.total + x.cumsum(1)
        seen = torch.arange(state.seen + 1, state.seen + x.shape[1] + 1)
        return self.proj(total / seen[:, None]), ToyState(total[:, -1:], int(seen[-1]))


def toy_flops(config, width, heads, T):
    return 2 * width * width


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    entry = registry.MixerEntry(Toy, "linear_attention", toy_flops, lambda _: "mean of the past")
    monkeypatch.setitem(registry.MIXERS, "toy", entry)


def test_a_mixer_of_one_entry_trains_and_its_checkpoint_loads(tmp_path):
    torch.manual_seed(0)
    config = BackboneConfig(31, 16, 2, 2, 24, mixer="toy")
    model, tokens = Backbone(config), torch.randint(31, (2, 14))
    optimizer, losses = torch.optim.AdamW(model.parameters(), 1e-2), []
    for _ in range(2):
        first, state = model(tokens[:, :6])
        second, _ = model(tokens[:, 6:-1], model.attach_carry(model.detach_carry(state)))
        logits = torch.cat((first, second), dim=1)
        losses.append(F.cross_entropy(logits.mT, tokens[:, 1:]))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[1] < losses[0]
    save_tokens_model(TokenCheckpoint(model, "bytes"), tmp_path / "toy.ckpt")
    loaded = load_tokens_model(tmp_path / "toy.ckpt").backbone
    assert loaded.config == config
    with torch.no_grad():
        logits, state = model(tokens)
        again, loaded_state = loaded(tokens, from_plain(to_plain(loaded.init_state(2))))
        start = Packed((loaded.init_state(1),) * 2, (14, 14))
        packed, _ = loaded(tokens.reshape(1, -1), start)
    assert torch.equal(logits, again)
    assert_same_state(state, loaded_state, tolerance=0)
    torch.testing.assert_close(packed.view_as(logits), logits)


def test_a_mixer_of_one_entry_is_counted_and_named():
    config = BackboneConfig(31, 16, 2, 2, 24, mixer="toy")
    assert flops_per_token(config, 14) == 2 * (2 * 16 * 16 + 6 * 16 * 24) + 2 * 16 * 31
    assert mixer_name(replace(config, norm_eps=1e-5)) == "mean of the past, norm eps 1e-05"
    assert functional(config)["mixer"] == "toy"


def test_a_checkpoint_older_than_a_mixer_loads_and_needs_its_own_config_only():
    plain = asdict(BackboneConfig(31, 16, 2, 2, 24, mixer="attention"))
    del plain["mamba"]
    assert backbone_config(plain) == BackboneConfig(31, 16, 2, 2, 24, mixer="attention")
    del plain["attention"]
    with pytest.raises(KeyError, match="attention"):
        backbone_config(plain)
