"""FLOPs equal PyTorch's own count, plus a count by hand of the operations it does not see."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.kernels.baselines import linear_attention, ssd
from tttvideo.kernels.dual import piece as dual
from tttvideo.measures.flops import flops_per_token, training_flops
from tttvideo.mixers.attention import AttentionConfig
from tttvideo.mixers.linear_attention import LinearAttentionConfig
from tttvideo.mixers.mamba import MambaConfig
from tttvideo.mixers.ttt import TTTConfig


SMALL = BackboneConfig(vocab_size=50, width=24, depth=2, heads=3, mlp_width=40)


def seen(config, tokens):
    """Forward operations in matrix products, by PyTorch's counter."""
    return sum(counts(config, tokens).values())


def seen_in_layers(config, tokens):
    """The same in products with the outer loop's weights alone."""
    linear = (torch.ops.aten.mm, torch.ops.aten.addmm)
    return sum(count for op, count in counts(config, tokens).items() if op in linear)


def counts(config, tokens):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        Backbone(config)(torch.zeros(1, tokens, dtype=torch.long))
    return counter.get_flop_counts()["Global"]


def convolved(config, count):
    """The operations of short convolutions, which the counter does not see."""
    return config.depth * 2 * config.ttt.conv_kernel * config.width * count


@pytest.mark.parametrize("inner", ["linear", "mlp"])
@pytest.mark.parametrize("backbone, forget", [("mamba", True), ("transformer", False)])
def test_ttt_is_counted_as_the_dual_form_multiplies(inner, backbone, forget, monkeypatch):
    M, T = 6, 18
    whole = [(M, dual.piece)] * (T // M)  # the counter sees into pieces, not into operators
    monkeypatch.setattr(dual, "cut", lambda *_: whole)
    ttt = TTTConfig(inner=inner, backbone=backbone, mini_batch_size=M, forget=forget)
    config = replace(SMALL, ttt=ttt)
    convolutions = 3 if backbone == "mamba" else 0
    counted = T * (flops_per_token(config, T) - convolved(config, convolutions))
    assert counted == pytest.approx(seen(config, T), rel=1e-12)


def test_a_video_window_is_counted():
    config = replace(SMALL, grid=(2, 3), window_frames=2)
    plain = replace(config, window_frames=0)
    added = 18 * (flops_per_token(config, 18) - flops_per_token(plain, 18))
    assert added == seen(config, 18) - seen(plain, 18) > 0


@pytest.mark.parametrize("window", [None, 5, 99], ids=str)
def test_attention_counts_the_keys_that_a_token_sees(window):
    T = 17
    config = replace(SMALL, mixer="attention", attention=AttentionConfig(window=window))
    visible = sum(min(t + 1, window or T) for t in range(T))
    none = replace(config, attention=AttentionConfig(window=1))
    keys = T * (flops_per_token(config, T) - flops_per_token(none, T))
    assert keys == pytest.approx(config.depth * 4 * config.width * (visible - T))
    dense = config.depth * 4 * config.width * T  # a window of one token
    assert T * flops_per_token(none, T) - dense == pytest.approx(seen_in_layers(config, T))


@pytest.mark.parametrize("normalise", [False, True])
def test_linear_attention_is_counted_as_its_chunks_multiply(normalise):
    T = 2 * linear_attention.CHUNK
    config = replace(
        SMALL,
        mixer="linear_attention",
        linear_attention=LinearAttentionConfig(normalise=normalise),
    )
    assert T * flops_per_token(config, T) == pytest.approx(seen(config, T), rel=1e-12)


def test_the_gated_delta_rule_is_counted_as_its_chunks_multiply():
    L = linear_attention.CHUNK
    config = replace(SMALL, mixer="gated_delta")
    # the convolutions of q, k and v; a triangular system of L rows for 2 D columns
    unseen = convolved(config, 3) + config.depth * 2 * L * config.width
    counted = 2 * L * (flops_per_token(config, 2 * L) - unseen)
    assert counted == pytest.approx(seen(config, 2 * L), rel=1e-12)


def test_mamba_is_counted_with_its_scan():
    config = replace(SMALL, mixer="mamba", mlp_width=0, mamba=MambaConfig(d_state=4))
    T, E = 16, 2 * SMALL.width
    unseen = config.depth * (2 * 4 * E + 7 * E * 4)  # the convolution and the scan
    counted = T * (flops_per_token(config, T) - unseen)
    assert counted == pytest.approx(seen_in_layers(config, T))


def test_mamba_2_is_counted_as_its_chunks_multiply():
    mamba = MambaConfig(d_state=4, head_dim=8, backend="torch")
    config = replace(SMALL, mixer="mamba2", mamba=mamba)
    T, E = 2 * ssd.CHUNK, 2 * SMALL.width
    convolution = config.depth * 2 * 4 * (E + 2 * 4)
    counted = T * (flops_per_token(config, T) - convolution)
    assert counted == pytest.approx(seen(config, T), rel=0.02)


def test_an_lstm_is_counted_with_its_gates():
    config = replace(SMALL, mixer="lstm")
    h = 5 * SMALL.width // 9
    unseen = config.depth * 8 * h * (SMALL.width + h)  # the counter does not see into oneDNN
    assert 16 * (flops_per_token(config, 16) - unseen) == seen(config, 16)


def test_training_takes_three_times_the_forward_pass():
    assert training_flops(SMALL, 1000, 64) == 3 * 1000 * flops_per_token(SMALL, 64)
