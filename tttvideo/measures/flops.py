"""Floating-point operations of a backbone, counted from its config.

A multiply-add counts 2. Counted are matrix products, convolutions and what a mixer does with its
memory; norms, activations, gates and rotations, a few operations per feature each, are not. Each
mixer is counted in the form in which it is trained: TTT in the dual form, attention over the keys
that a token sees, Mamba's scan token by token, Mamba-2 and linear attention by chunks.

C width, T tokens of context, M mini-batch size, H heads, D head dim, E inner features, N states.
"""

import math
from collections.abc import Callable

from tttvideo.backbone import BackboneConfig
from tttvideo.kernels.baselines import linear_attention as linear
from tttvideo.kernels.baselines import ssd


TRAINING = 3
"""Forward and backward, over forward: a product's backward is two products of its size."""


def flops_per_token(config: BackboneConfig, T: int) -> float:
    """Forward operations per token, the mean over T tokens from an empty state."""
    C, V, F = config.width, config.vocab_size, config.mlp_width
    block = MIXERS[config.mixer](config, T) + 6 * C * F
    return config.depth * block + 2 * C * V + frame_window(config)


def training_flops(config: BackboneConfig, tokens: int, window: int) -> float:
    """Operations of training on `tokens` tokens in windows of `window` that begin with nothing."""
    return TRAINING * tokens * flops_per_token(config, window)


def ttt(config: BackboneConfig, T: int) -> float:
    C, H, ttt = config.width, config.heads, config.ttt.resolved(config.grid)
    M, D = ttt.mini_batch_size, C // H
    projections = 3 + (not ttt.share_qk) + ttt.gate  # q, v, out; k; gate
    convolutions = 2 * ttt.share_qk + ttt.pre_conv
    steps = 2 * C * H * ttt.learn_step
    outside = 2 * C * C * projections + 2 * ttt.conv_kernel * C * convolutions + steps
    # per head and mini-batch: 2 M D^2 for every product with a weight or a step of one, 2 M^2 D for
    # every product of tokens with tokens; the MLP's hidden size is 4 D
    squares, mixes = {"linear": (6, 4), "mlp": (56, 20)}[ttt.inner]
    if not ttt.norm:  # a mini-batch is linear attention, by chunks
        squares, M = 8, min(linear.CHUNK, M)
    return outside + H * (squares * D * D + mixes * M * D)


def attention(config: BackboneConfig, T: int) -> float:
    C = config.width
    window = min(config.attention.window or T, T)
    keys = (window * (window + 1) / 2 + (T - window) * window) / T  # that a token sees, in the mean
    return 8 * C * C + 4 * C * keys


def linear_attention(config: BackboneConfig, T: int) -> float:
    C, D = config.width, config.width // config.heads
    columns = D + config.linear_attention.normalise  # of the memory, D rows
    chunk = min(linear.CHUNK, T)
    # q k^T and its product with v in a chunk, and what is written to and read from the memory
    per_head = 2 * chunk * (D + columns) + 4 * D * columns
    return 8 * C * C + config.heads * per_head


def mamba(config: BackboneConfig, T: int) -> float:
    C, mamba = config.width, config.mamba.resolved(d_state=16)
    E, N, rank = mamba.expand * C, mamba.d_state, math.ceil(C / 16)
    projections = 2 * C * 2 * E + 2 * E * (rank + 2 * N) + 2 * rank * E + 2 * E * C
    # per feature and state: a = exp(dt A) and (dt x) B are 3, h <- a h + .. is 2, y += C h is 2
    return projections + 2 * mamba.conv_kernel * E + 7 * E * N


def mamba2(config: BackboneConfig, T: int) -> float:
    C, mamba = config.width, config.mamba.resolved(d_state=128)
    E, N = mamba.expand * C, mamba.d_state
    projections = 2 * C * (2 * E + 2 * N + E // mamba.head_dim) + 2 * E * C
    # C B^T, its product with x, and what is written to and read from the states between chunks
    scan = 2 * min(ssd.CHUNK, T) * (N + E) + 4 * E * N
    return projections + 2 * mamba.conv_kernel * (E + 2 * N) + scan


def frame_window(config: BackboneConfig) -> float:
    """The product behind a video's window over its last frames; see layers.FrameWindow."""
    if not (config.grid and config.window_frames):
        return 0
    near = 4 + 9 * config.window_frames
    return 2 * near * (config.width // 4) * config.width


MIXERS: dict[str, Callable[[BackboneConfig, int], float]] = {
    "ttt": ttt,
    "attention": attention,
    "linear_attention": linear_attention,
    "mamba": mamba,
    "mamba2": mamba2,
}
