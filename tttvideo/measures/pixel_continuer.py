"""The ConvLSTM as a model that continues clips. It has no tokens, and so no bits and no ceiling.

B clips, F frames, S pixels of height and width.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tttvideo.sampling.choose import Choose
from tttvideo.video.conditions import Conditions
from tttvideo.video.conv_lstm import ConvLSTMState
from tttvideo.weights.video_checkpoints import PixelCheckpoint


PixelState = tuple[Tensor, ConvLSTMState]
"""The next frame as the model predicts it, (B, 1, 3 patch^2, R, R), and the maps of its layers."""


class PixelsContinue:
    """A model of pixels that reads frames, and continues them by reading its own."""

    tokens = None

    def __init__(self, checkpoint: PixelCheckpoint, device: str = "cpu"):
        self.network = checkpoint.network.to(device)
        self.trained, self.device = checkpoint.trained, device
        self.size = self.network.config.size

    @torch.inference_mode()
    def read(
        self, images: Tensor, known: Conditions, state: PixelState | None = None
    ) -> tuple[None, PixelState]:
        """Read images (B, F, S, S, 3) uint8 after `state`; None: the start of the videos."""
        maps = self.network.to_maps(images.to(self.device))
        after, layers = self.network.read(maps, state and state[1])
        return None, (after[:, -1:], layers)

    def ahead(
        self, state: PixelState, count: int, known: Conditions, choose: Choose
    ) -> Iterator[Tensor]:
        """The `count` frames (B, S, S, 3) uint8 after a state; one future, nothing is drawn."""
        with torch.inference_mode():
            after, layers = state
            for n in range(count):
                if n:
                    after, layers = self.network.read(after, layers)
                pixels = self.network.to_frames(after)[:, 0].clamp(0, 1)
                yield (255 * pixels).round().to(torch.uint8).cpu()

    def through(self, images: Tensor) -> Any:
        return None
