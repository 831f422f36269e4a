"""Checkpoints of models of video: of whole frames, of tokens, or of pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tttvideo.backbone import Backbone
from tttvideo.mixers.registry import CONFIGS
from tttvideo.video.address import AddressConfig
from tttvideo.video.conditions import ConditionsConfig
from tttvideo.video.conv_lstm import ConvLSTM, ConvLSTMConfig
from tttvideo.video.frame_codec import FrameCodec
from tttvideo.video.frame_head import HeadConfig
from tttvideo.video.frame_model import FrameModel, FrameModelConfig
from tttvideo.video.shared_digits import fold_digits, share_digits

from .checkpoints import (
    check_declared,
    check_finite,
    frame_codec,
    load_checkpoint,
    load_tokens_model,
    load_weights,
)


@dataclass
class VideoCheckpoint:
    """A trained model of video, ready to run.

    network: a FrameModel, or a Backbone of tokens.
    tokenizer: the fingerprint of the frame tokenizer.
    trained: frames, window and steps of its training, or of a Backbone as in TokenCheckpoint.
    """

    network: FrameModel | Backbone
    tokenizer: str
    fps: float | None
    frame_tokenizer: FrameCodec
    trained: dict[str, Any] | None = None


def video_description(model: VideoCheckpoint) -> dict[str, Any]:
    """The description of a frame model in its checkpoint."""
    return {
        "model": "frames",
        "frame_model": asdict(model.network.config),
        "frame_tokenizer": asdict(model.frame_tokenizer.config),
        "tokenizer": model.tokenizer,
        "fps": model.fps,
        "trained": model.trained,
    }


def load_video_model(path: str | Path) -> VideoCheckpoint:
    """Load a checkpoint of `tttvideo fit` on video, in frame mode or in token mode.

    Raises ValueError, in one line, for any other file and for weights that are not finite.
    """
    about, weights = load_checkpoint(path, ("frames", "tokens"))
    if about["model"] == "tokens":
        tokens = load_tokens_model(path)
        if tokens.frame_tokenizer is None:
            raise ValueError(f"{path} is a model of text; `tttvideo generate` runs it")
        facts = tokens.tokenizer, tokens.fps, tokens.frame_tokenizer, tokens.trained
        return VideoCheckpoint(tokens.backbone, *facts)
    try:
        frames = frame_codec(about["frame_tokenizer"])
        about["frame_model"]["first_mixer"]  # files without it had other norms
        config = frame_model_config(about["frame_model"])
        check_declared(config, weights, "frame_model.", path)
        network = FrameModel(config)
        facts = about["tokenizer"], about["fps"], frames, about["trained"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} was written by another version: {error}") from error
    load_weights(frames, weights, "frame_tokenizer.", path)
    share_digits(network.tables(), frames.levels)
    load_weights(network, weights, "frame_model.", path)
    fold_digits(network.tables(), frames.levels)
    check_finite(network, path)
    return VideoCheckpoint(network, *facts)


def frame_model_config(values: Mapping[str, Any]) -> FrameModelConfig:
    """The config from the mapping that `dataclasses.asdict` gives."""
    parts = CONFIGS | {
        "address": AddressConfig,
        "conditions": ConditionsConfig,
        "head": HeadConfig,
    }
    built = {name: parts[name](**values[name]) for name in parts.keys() & {*values}}
    return FrameModelConfig(**{**values, **built})


@dataclass
class PixelCheckpoint:
    """A trained model of pixels, ready to run; it has no tokens.

    trained: frames, window and steps of its training.
    """

    network: ConvLSTM
    trained: dict[str, Any] | None = None


def pixel_description(model: PixelCheckpoint) -> dict[str, Any]:
    """The description of a model of pixels in its checkpoint."""
    return {
        "model": "pixels",
        "conv_lstm": asdict(model.network.config),
        "trained": model.trained,
    }


def load_video_or_pixels(path: str | Path) -> VideoCheckpoint | PixelCheckpoint:
    """Load a checkpoint of `tttvideo fit` on video, of tokens or of pixels."""
    about, _ = load_checkpoint(path, ("frames", "tokens", "pixels"))
    return load_pixel_model(path) if about["model"] == "pixels" else load_video_model(path)


def load_pixel_model(path: str | Path) -> PixelCheckpoint:
    """Load a checkpoint of `tttvideo fit` on clips of pixels.

    Raises ValueError, in one line, for any other file and for weights that are not finite.
    """
    about, weights = load_checkpoint(path, ("pixels",))
    try:
        network = ConvLSTM(ConvLSTMConfig(**about["conv_lstm"]))
        trained = about["trained"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} was written by another version: {error}") from error
    load_weights(network, weights, "conv_lstm.", path)
    check_finite(network, path)
    return PixelCheckpoint(network, trained)
