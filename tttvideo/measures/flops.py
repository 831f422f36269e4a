"""Floating-point operations of a backbone or a frame model, counted from its config.

A multiply-add counts 2. Matrix products, convolutions and a mixer's work on its memory are counted;
norms, activations, gates and rotations, a few operations per feature each, are not. Each mixer's
file counts the mixer in the form in which it is trained.

C width, T tokens of context, V vocabulary, F hidden features of the SwiGLU, P tokens per frame.
"""

from tttvideo.backbone import BackboneConfig
from tttvideo.video.address import address_features
from tttvideo.video.frame_head import NEAR
from tttvideo.video.frame_model import FrameModelConfig


TRAINING = 3
"""Forward and backward over forward: the backward of a product is two products of its size."""


def flops_per_token(config: BackboneConfig, T: int) -> float:
    """Forward operations per token, the mean over T tokens from an empty state."""
    C, V, F = config.width, config.vocab_size, config.mlp_width
    block = config.entry.flops(config.resolved, C, config.heads, T) + 6 * C * F
    return config.depth * block + 2 * C * V + frame_window(config)


def training_flops(config: BackboneConfig, tokens: int, window: int) -> float:
    """Operations of training on `tokens` tokens in windows of `window` from an empty state."""
    return TRAINING * tokens * flops_per_token(config, window)


def frame_window(config: BackboneConfig) -> float:
    """The product in video.frame_window.FrameWindow."""
    if not (config.grid and config.window_frames):
        return 0
    near = 4 + 9 * config.window_frames
    return 2 * near * (config.width // 4) * config.width


def frame_flops_per_token(config: FrameModelConfig, T: int) -> float:
    """Forward operations per token of a frame model, the mean over T tokens from an empty state.

    Conditions, one vector per frame, are not counted.
    """
    C, V, P = config.width, config.vocab_size, config.grid[0] * config.grid[1]
    attention = 8 * C * C + 4 * P * C
    blocks: float = config.depth * (config.in_frame * attention + 6 * C * config.mlp_width)
    if config.entry:
        own = config.entry.mixer.resolve(config.own, config.grid)
        mixer = config.entry.flops(own, C, config.heads, T)
        blocks += (config.depth - config.first_mixer) * mixer
    window = 18 * config.window_frames * (C // 4) * C
    places = 2 * address_features(config.address) * C + 4 * C * C * config.address.as_input
    head = config.head.depth * (attention + 6 * C * (config.mlp_width or 2 * C))
    head += 2 * len(NEAR) * (C // 4) * C + 2 * C * V
    return blocks + window + places + head
