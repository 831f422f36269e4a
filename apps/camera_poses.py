"""Poses of a video's frames for models that were trained on the estimated motion of a camera."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from tttvideo.data.video.camera import CameraPose
from tttvideo.video.conditions import NOTHING, Conditions
from tttvideo.video.frame_codec import PATCH
from tttvideo.video.frame_model import FrameModel


class CameraPoses:
    """Conditions of frames; nothing for a model without poses. The camera is assumed to move on."""

    def __init__(self, model: object):
        self.wanted = isinstance(model, FrameModel) and model.config.address.poses == "shift"
        self.camera, self.places = CameraPose(), [np.zeros(2)] * 2  # the last two

    def read(self, images: Iterable[np.ndarray]) -> Conditions:
        """Those of the frames (S, S, 3) uint8 that follow the ones that were read."""
        if not self.wanted:
            return NOTHING
        found = [self.camera(image) / PATCH for image in images]
        self.places = [*self.places, *found][-2:]
        return conditions([*found, *self.after(1)])

    def ahead(self, frames: int, count: int) -> Conditions:
        """Those of `count` futures of `frames` frames."""
        if not self.wanted:
            return NOTHING
        return conditions(self.after(frames + 1), count)

    def after(self, frames: int) -> list[np.ndarray]:
        before, last = self.places
        return [last + (last - before) * n for n in range(1, frames + 1)]


def conditions(poses: Sequence[np.ndarray], count: int = 1) -> Conditions:
    rows = torch.from_numpy(np.stack(poses)).float()
    return Conditions(poses=rows.expand(count, -1, -1))
