"""Poses of a video's frames for models that were trained on the estimated motion of a camera."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from tttvideo.data.video.camera import CameraPose
from tttvideo.video.conditions import NOTHING, Conditions
from tttvideo.video.frame_codec import PATCH
from tttvideo.video.frame_model import FrameModel


BATCH = 16  # frames that are read at once


class CameraPoses:
    """Conditions of frames; nothing for a model without poses. The camera is assumed to move on.

    batch: frames to read at once: one with poses, as that of the next frame is not yet known.
    """

    def __init__(self, model: object, saved: tuple[Tensor, Tensor] | None = None):
        """saved: from the `to_plain` of the frames before."""
        self.wanted = isinstance(model, FrameModel) and model.config.address.poses == "shift"
        self.batch = 1 if self.wanted else BATCH
        self.camera, self.places = CameraPose(), [np.zeros(2)] * 2  # the last two
        if saved:
            places, self.camera.before = (part.numpy() for part in saved)
            self.places, self.camera.place = list(places), places[-1] * PATCH

    def to_plain(self) -> tuple[Tensor, Tensor] | None:
        """The last two poses, and the last frame, after at least one."""
        if self.camera.before is None:
            return None
        return torch.from_numpy(np.stack(self.places)), torch.from_numpy(self.camera.before)

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
