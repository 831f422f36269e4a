"""What a model reads of a video's frames besides their pixels: given rows, times, estimated poses.

F frames, S pixels of height and width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from tttvideo.data.video.camera import CameraPose
from tttvideo.data.video.conditions import find_condition, read_condition, seconds_between
from tttvideo.data.video.sources import VideoSource
from tttvideo.sampling.given_conditions import GivenConditions, check_fits, conditions_read
from tttvideo.video.conditions import Conditions
from tttvideo.video.frame_codec import PATCH
from tttvideo.video.frame_model import FrameModel, FrameModelConfig


Images = Sequence[np.ndarray] | np.ndarray

BATCH = 16  # frames that are read at once
GIVEN = "actions", "poses", "classes"  # conditions that come from files
NONE: Mapping[str, Path] = MappingProxyType({})


class FrameConditions:
    """The conditions of a video's frames, which are read in order.

    about: where each came from, by name.
    batch: frames to read at once: one with estimated poses, as that of the next is not yet known.
    """

    def __init__(
        self, given: GivenConditions, camera: EstimatedPoses | None, about: dict[str, str]
    ):
        self.given, self.camera, self.about = given, camera, about
        self.batch = 1 if camera else BATCH

    def read(self, images: Images) -> Conditions:
        """Those of the next frames (S, S, 3) uint8."""
        found = self.given.read(len(images))
        return replace(found, poses=self.camera.read(images)[None]) if self.camera else found

    def ahead(self, frames: int, count: int) -> Conditions:
        """Those of `count` futures of `frames` frames."""
        found = self.given.ahead(frames, count)
        if not self.camera:
            return found
        return replace(found, poses=self.camera.after(frames + 1).expand(count, -1, -1))

    def to_plain(self) -> tuple[Tensor, Tensor] | None:
        """What estimated poses continue from; None for others."""
        return self.camera.to_plain() if self.camera else None


class EstimatedPoses:
    """Poses by the shift between frames; after the last frame the camera is assumed to move on."""

    def __init__(self, saved: tuple[Tensor, Tensor] | None = None):
        """saved: from the `to_plain` of the frames before."""
        self.camera, self.places = CameraPose(), [np.zeros(2)] * 2  # the last two
        if saved:
            places, self.camera.before = (part.numpy() for part in saved)
            self.places, self.camera.place = list(places), places[-1] * PATCH

    def to_plain(self) -> tuple[Tensor, Tensor]:
        """The last two poses, and the last frame, after at least one."""
        assert self.camera.before is not None
        return torch.from_numpy(np.stack(self.places)), torch.from_numpy(self.camera.before)

    def read(self, images: Images) -> Tensor:
        """Poses (F + 1, 2) of the next F images, and of the frame after them."""
        found = [self.camera(image) / PATCH for image in images]
        self.places = [*self.places, *found][-2:]
        return torch.cat((torch.from_numpy(np.stack(found)).float(), self.after(1)))

    def after(self, frames: int) -> Tensor:
        before, last = self.places
        ahead = [last + (last - before) * n for n in range(1, frames + 1)]
        return torch.from_numpy(np.stack(ahead)).float()


def model_config(network: object) -> FrameModelConfig:
    """The config of a frame model; for another model, which reads no conditions, one without."""
    return network.config if isinstance(network, FrameModel) else FrameModelConfig()


def frame_conditions(
    network: object,
    source: VideoSource,
    times: np.ndarray,
    frames: int,
    given: Mapping[str, Path] = NONE,
    options: Collection[str] = (),
    need: str = "",
) -> FrameConditions:
    """What the model reads of the first `frames` frames of a video.

    Rows are those of the `given` files, or else of the files beside the video; poses that are in
    neither are estimated, where the model was trained so. Raises ValueError where there is none,
    and for rows that are too few or not of the model's form.

    times: seconds of the frames, at least `frames`.
    options: conditions that a user can give as --NAME FILE; need: why there must be `frames` rows.
    """
    config = model_config(network)
    reads, rows, about = conditions_read(config), {}, {}
    for name in (name for name in GIVEN if name in reads):
        if file := given.get(name) or find_condition(source.path, name):
            found = read_condition(file, name, None if name in given else source.number)
            rows[name] = enough(found, name, file, frames, need or f"{frames} frames are read")
            check_fits(config, name, rows[name], file)
            about[name] = str(file)
        else:
            can_estimate = name == "poses" and config.address.poses == "shift"
            about[name] = "estimated" if can_estimate else "missing"
            if reads[name] and not can_estimate:
                say = remedy(name, source.path, frames, name in options)
                raise ValueError(f"the model reads {name}: {say}")
    if "seconds" in reads:
        rows["seconds"] = seconds_between(times)
    camera = EstimatedPoses() if about.get("poses") == "estimated" else None
    return FrameConditions(GivenConditions(rows), camera, about)


def enough(rows: np.ndarray, name: str, file: Path, frames: int, need: str) -> np.ndarray:
    """The rows, refused where there are fewer than frames; one class is that of all frames."""
    if name == "classes" and len(rows) == 1:
        return rows.repeat(frames)
    if len(rows) < frames:
        raise ValueError(f"{file} has {len(rows)} rows of {name}, and {need}; give more rows")
    return rows


def remedy(name: str, video: Path, frames: int, option: bool) -> str:
    beside = f"put {video.stem}.{name}.npy beside {video}"
    if name == "classes":
        return f"{beside}, which may hold one number"
    either = f"give --{name} FILE, or {beside}" if option else beside
    return f"{either}, with a row for each of {frames} frames"
