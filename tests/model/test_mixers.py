"""Laws of every mixer, and of attention."""

import math
from dataclasses import replace

import pytest
import torch

from helpers.states import assert_same_state, leaves, run_in_pieces
from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.kernels import Packed
from tttvideo.mixers.attention import Attention, AttentionConfig, attend
from tttvideo.mixers.lstm import LSTMConfig
from tttvideo.mixers.mamba import MambaConfig
from tttvideo.mixers.ttt import TTTConfig
from tttvideo.states import from_plain, same_structure, stack, to_plain, tree_map, unstack


SIZES = BackboneConfig(
    vocab_size=31, width=16, depth=2, heads=2, mlp_width=24, ttt=TTTConfig(mini_batch_size=4)
)
CONFIGS = {
    "ttt linear": SIZES,
    "ttt mlp": replace(SIZES, ttt=TTTConfig(inner="mlp", mini_batch_size=4)),
    "forget linear": replace(SIZES, ttt=TTTConfig(mini_batch_size=4, forget=True)),
    "forget mlp": replace(SIZES, ttt=TTTConfig("mlp", mini_batch_size=4, forget=True)),
    "attention": replace(SIZES, mixer="attention"),
    "window": replace(SIZES, mixer="attention", attention=AttentionConfig(window=5)),
    "mamba": replace(SIZES, mixer="mamba", mlp_width=0, mamba=MambaConfig(d_state=3)),
    "linear attention": replace(SIZES, mixer="linear_attention"),
    "gated delta": replace(SIZES, mixer="gated_delta"),
    "norm-free": replace(SIZES, ttt=TTTConfig(mini_batch_size=4, norm=False, learn_step=False)),
    "mamba2": replace(SIZES, mixer="mamba2", mamba=MambaConfig(d_state=3, head_dim=8)),
    "lstm": replace(SIZES, mixer="lstm", lstm=LSTMConfig(hidden=10)),
}
MIXERS = pytest.mark.parametrize("name", CONFIGS)
GROWING = "attention", "linear_attention"
"""Mixers whose states count the tokens, or are cut."""
UNCOUNTED = "mamba", "mamba2", "gated delta", "lstm"
"""Mixers whose states do not know how many tokens were read."""


def new_model(name):
    torch.manual_seed(0)
    model = Backbone(CONFIGS[name])
    for parameter in model.parameters():  # nothing at zero, or a law could hold for nothing
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model.double()


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@MIXERS
@pytest.mark.parametrize("cuts", [(21, 8), (1,) * 29, (3, 1, 16, 9)], ids=str)
@torch.no_grad()
def test_any_cut_gives_the_same_logits_and_state(name, cuts):
    model, tokens = new_model(name), torch.randint(31, (2, 29))
    whole, end = model(tokens)
    logits, state = run_in_pieces(model, tokens, cuts)
    close(logits, whole)
    assert_same_state(state, end)


@MIXERS
@torch.no_grad()
def test_a_later_token_changes_no_earlier_logit(name):
    model, tokens = new_model(name), torch.randint(31, (1, 29))
    changed = tokens.clone()
    changed[:, 17] = (changed[:, 17] + 1) % 31
    before, after = model(tokens)[0], model(changed)[0]
    close(before[:, :17], after[:, :17])
    assert (before[:, 17:] != after[:, 17:]).any()


@MIXERS
@torch.no_grad()
def test_packed_sequences_equal_separate_calls(name):
    model, lengths = new_model(name), [7, 1, 12]
    tokens = torch.randint(31, (1, sum(lengths)))
    packed, after = model(tokens, Packed((model.init_state(1),) * 3, (7, 1, 12)))
    more = torch.randint(31, (1, 3))
    next_packed, next_after = model(more, Packed(after.states, (1, 1, 1)))
    parts = zip(tokens.split(lengths, dim=1), packed.split(lengths, dim=1), strict=True)
    for i, (part, logits) in enumerate(parts):
        alone, state = model(part)
        close(logits, alone)
        assert_same_state(after.states[i], state)
        alone, state = model(more[:, i : i + 1], state)
        close(next_packed[:, i : i + 1], alone)
        assert_same_state(next_after.states[i], state)


@MIXERS
def test_packed_lengths_that_do_not_fit_the_tokens_are_refused(name):
    model = new_model(name)
    start = Packed((model.init_state(1),) * 2, (3, 4))
    with pytest.raises(ValueError, match=r"tokens are \(1, 8\); .* \(3, 4\) need \(1, 7\)"):
        model(torch.zeros(1, 8, dtype=torch.long), start)


@MIXERS
@torch.no_grad()
def test_states_are_stacked_and_unstacked(name):
    model, tokens = new_model(name), torch.randint(31, (3, 9))
    _, state = model(tokens)
    rows = unstack(state, 3)
    assert same_structure(rows)
    assert_same_state(stack(rows), state)
    _, longer = model(tokens[:1, :6])
    assert same_structure([rows[0], longer]) == (name in UNCOUNTED)


@MIXERS
@torch.no_grad()
def test_a_state_loaded_from_a_file_gives_the_same_logits(name, tmp_path):
    model, tokens = new_model(name), torch.randint(31, (2, 11))
    _, state = model(tokens)
    torch.save(to_plain(state), tmp_path / "state")
    again = from_plain(torch.load(tmp_path / "state", weights_only=True))
    assert torch.equal(model(tokens, again)[0], model(tokens, state)[0])


@MIXERS
def test_a_carried_state_has_no_history_and_continues_the_same(name):
    model, tokens = new_model(name), torch.randint(31, (2, 8))
    logits, state = model(tokens)
    carried = model.detach_carry(state)
    assert not any(leaf.requires_grad for leaf in leaves(carried))
    again = model.attach_carry(carried)
    assert_same_state(tree_map(torch.detach, again), tree_map(torch.detach, state))
    model(tokens, again)[0].sum().backward()


@MIXERS
@torch.no_grad()
def test_a_carried_state_continues_under_autocast_close_to_float32(name):
    model, tokens = new_model(name).float(), torch.randint(31, (2, 29))
    wanted, _ = model(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        _, state = model(tokens[:, :12])
        assert all(leaf.isfinite().all() for leaf in leaves(state))
        if CONFIGS[name].mixer not in GROWING:
            assert same_structure([model.init_state(2), state])
        logits, _ = model(tokens[:, 12:], state)
    wanted = wanted[:, 12:]
    assert logits.isfinite().all()
    limit = 4e-2 if name == "gated delta" else 2e-2  # it norms each head's output, however small
    assert (logits - wanted).norm() <= limit * wanted.norm()


@pytest.mark.parametrize("name", ["ttt linear", "forget mlp", "norm-free"])
def test_the_learned_start_gets_a_gradient_in_every_window(name):
    model, tokens = new_model(name), torch.randint(31, (1, 8))
    _, state = model(tokens)
    model(tokens, model.attach_carry(model.detach_carry(state)))[0].square().sum().backward()
    for weight in model.blocks[0].mixer.inner_weights:
        assert weight.grad.abs().sum() > 0


@MIXERS
@torch.no_grad()
def test_only_attention_without_a_window_has_a_state_that_grows(name):
    model = new_model(name)
    sizes = {
        sum(leaf.untyped_storage().nbytes() for leaf in leaves(model(torch.randint(31, (1, T)))[1]))
        for T in (8, 16, 64)
    }
    assert len(sizes) == (3 if name == "attention" else 1)


def slow_attention(q, k, v, window, frame):
    """Token by token, softmax written out."""
    T, L, rows = q.shape[2], k.shape[2], []
    for t in range(T):
        last = L - T + (t // frame + 1) * frame
        first = 0 if window is None else max(0, last - window)
        scores = q[:, :, t, None] @ k[:, :, first:last].mT / math.sqrt(q.shape[-1])
        rows.append(scores.exp() / scores.exp().sum(-1, keepdim=True) @ v[:, :, first:last])
    return torch.cat(rows, dim=2)


@pytest.mark.parametrize("window", [None, 1, 3, 40])
@pytest.mark.parametrize(
    "T, L, frame",
    [(19, 19, 1), (7, 19, 1), (1, 19, 1), (1, 1, 1), (18, 18, 3), (6, 19, 3), (3, 19, 3)],
)
def test_attention_equals_softmax_written_out(monkeypatch, window, T, L, frame):
    monkeypatch.setattr("tttvideo.mixers.attention.QUERIES", 4)
    torch.manual_seed(0)
    q = torch.randn(2, 3, T, 4, dtype=torch.float64)
    k, v = torch.randn(2, 2, 3, L, 4, dtype=torch.float64)
    slow = slow_attention(q, k, v, window, frame)
    torch.testing.assert_close(attend(q, k, v, window, frame), slow)


def test_scores_of_attention_depend_on_distance_alone():
    torch.manual_seed(0)
    layer = Attention(8, 2, AttentionConfig()).double()
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    state = layer.init_state(1)
    later = replace(state, seen=1000)
    assert not torch.equal(layer(x, state)[1].k, layer(x, later)[1].k[:, :, -6:])
    torch.testing.assert_close(layer(x, later)[0], layer(x, state)[0], rtol=1e-4, atol=1e-4)


def test_sizes_that_attention_cannot_have_are_refused():
    with pytest.raises(ValueError, match="width 6 over 2 heads must give an even head dim"):
        Attention(6, 2, AttentionConfig())
    with pytest.raises(ValueError, match="attention.window is 0; it must be 1 or more"):
        Attention(8, 2, AttentionConfig(window=0))
