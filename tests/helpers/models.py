"""Tiny models with no weight at zero, so that no test passes trivially."""

from pathlib import Path

import torch

from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.mixers.ttt import TTTConfig
from tttvideo.video.frame_model import FrameModel, FrameModelConfig
from tttvideo.video.frame_tokenizer import FrameTokenizer, FrameTokenizerConfig
from tttvideo.video.shared_digits import share_digits
from tttvideo.weights.checkpoints import save_torch_file
from tttvideo.weights.video_checkpoints import VideoCheckpoint, video_description


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


def small_video(size=16, seed=0, **changes) -> VideoCheckpoint:
    """A frame model of one block and a frame tokenizer of 6 tokens, with random weights."""
    torch.manual_seed(seed)
    codec = FrameTokenizer(FrameTokenizerConfig(size, width=8, hidden=8, levels=(3, 2))).eval()
    sizes = {"vocab_size": 6, "grid": codec.config.grid, "width": 16, "heads": 2, "mlp_width": 24}
    network = FrameModel(FrameModelConfig(**sizes | {"depth": 1} | changes)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return VideoCheckpoint(network, codec.fingerprint(), 10, codec)


def save_video(model: VideoCheckpoint, path: Path) -> None:
    """Write a checkpoint that `load_video_model` loads."""
    share_digits(model.network.tables(), model.frame_tokenizer.levels)
    parts = {"frame_model": model.network, "frame_tokenizer": model.frame_tokenizer}
    weights = {
        f"{name}.{key}": x for name, part in parts.items() for key, x in part.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_torch_file({"tttvideo": video_description(model), "state_dict": weights}, path)
