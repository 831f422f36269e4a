"""Floating-point operations of a backbone, counted from its config.

A multiply-add counts 2. Matrix products, convolutions and a mixer's work on its memory are counted;
norms, activations, gates and rotations, a few operations per feature each, are not. Each mixer's
file counts the mixer in the form in which it is trained.

C width, T tokens of context, V vocabulary, F hidden features of the SwiGLU.
"""

from tttvideo.backbone import BackboneConfig


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
