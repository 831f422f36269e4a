"""Models that continue clips, behind one interface, whether they have tokens or not.

B clips, F frames, S pixels of height and width, P tokens per frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tttvideo.sampling.choose import Choose
from tttvideo.sampling.frame_streams import decode_frames, read_frames
from tttvideo.video.conditions import Conditions
from tttvideo.weights.video_checkpoints import (
    PixelCheckpoint,
    VideoCheckpoint,
    load_video_or_pixels,
)

from .pixel_continuer import PixelsContinue
from .video_data import decode, encode


class ContinuesClips(Protocol):
    """What a model has to do to be measured on clips: read frames, and continue them as frames.

    State comes in and goes out: a model may be asked twice to continue from one state. A state is a
    tree of tensors (tttvideo/states.py) with the clips on their first axis, so that it can be
    repeated for several samples. A model of pixels has no tokens: `tokens` is None, and so are the
    bits of `read` and the result of `through`.
    """

    @property
    def size(self) -> int:
        """S, of the frames that it reads and makes."""

    @property
    def tokens(self) -> int | None:
        """P, over which the bits of a frame are a sum; None: it has no bits."""

    @property
    def network(self) -> nn.Module:
        """If it is a FrameModel, its conditions are read with the frames."""

    @property
    def trained(self) -> dict[str, Any] | None:
        """What its checkpoint tells of its training."""

    def read(
        self, images: Tensor, known: Conditions, state: Any = None
    ) -> tuple[Tensor | None, Any]:
        """Read images (B, F, S, S, 3) uint8 after `state`; None: the start of the videos.

        Returns: the bits (B, F) of each frame, given all frames before it, and the state.
        """

    def ahead(self, state: Any, count: int, known: Conditions, choose: Choose) -> Iterator[Tensor]:
        """The `count` frames (B, S, S, 3) uint8 after a state, one after the other.

        known: of these frames. choose: draws tokens; a model that draws nothing ignores it.
        """

    def through(self, images: Tensor) -> Tensor | None:
        """Images (B, F, S, S, 3) uint8 through the tokenizer and back: the model's ceiling."""


class TokensContinue:
    """A model of frame tokens, in frame mode or in token mode, as one that continues clips."""

    def __init__(self, checkpoint: VideoCheckpoint, device: str = "cpu"):
        self.network = checkpoint.network.to(device)
        self.codec = checkpoint.frame_tokenizer.to(device)
        self.device, self.trained = device, checkpoint.trained
        self.size, self.tokens = self.codec.config.size, math.prod(self.codec.config.grid)

    def read(
        self, images: Tensor, known: Conditions, state: Any = None
    ) -> tuple[Tensor | None, Any]:
        tokens = encode(self.codec, images)
        bits, prefix = read_frames(self.network, tokens, state, known.to(self.device))
        return bits.sum(-1).cpu(), prefix

    def ahead(self, state: Any, count: int, known: Conditions, choose: Choose) -> Iterator[Tensor]:
        with torch.inference_mode():
            known = known.to(self.device)
            for tokens in decode_frames(self.network, state, count, choose, known):
                yield self.codec.decode(tokens).cpu()

    def through(self, images: Tensor) -> Tensor | None:
        return decode(self.codec, encode(self.codec, images))


def load_continuer(path: str | Path, device: str = "cpu") -> ContinuesClips:
    """The model of a checkpoint of video. Raises ValueError, in one line, for any other file."""
    model = load_video_or_pixels(path)
    if isinstance(model, PixelCheckpoint):
        return PixelsContinue(model, device)
    return TokensContinue(model, device)
