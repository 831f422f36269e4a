"""Tiny models with no weight at zero, so that no test passes trivially."""

import torch

from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.mixers.ttt import TTTConfig
from tttvideo.video.frame_model import FrameModel, FrameModelConfig


MIXERS = {
    "linear": {},
    "mlp": {"inner": "mlp"},
    "forget": {"ttt": {"forget": True}},
    "forget mlp": {"inner": "mlp", "ttt": {"forget": True}},
    "attention": {"mixer": "attention"},
    "mamba": {"mixer": "mamba"},
    "video": {"grid": (2, 3), "window_frames": 1},
}
"""Arguments of `small` for models of text, and one of video."""
SIZES = {"vocab_size": 31, "width": 16, "depth": 2, "heads": 2, "mlp_width": 24}


def small(
    inner="linear", grid=None, M=4, dtype=torch.float64, std=0.3, ttt=None, **changes
) -> Backbone:
    """A backbone of two blocks; `ttt` and `changes` replace fields of the configs."""
    torch.manual_seed(0)
    config = TTTConfig(**{"inner": inner, "mini_batch_size": None if grid else M, **(ttt or {})})
    model = Backbone(BackboneConfig(**SIZES | changes, grid=grid, ttt=config)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return model.to(dtype)


def small_frames(dtype=torch.float64, std=0.3, ttt=None, **changes) -> FrameModel:
    """A frame model of two blocks for frames of 2 x 3 tokens of 7 kinds."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 7, "grid": (2, 3), "width": 16, "heads": 2, "mlp_width": 24}
    config = FrameModelConfig(**sizes | changes, ttt=TTTConfig(**(ttt or {})))
    model = FrameModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return model.to(dtype)
