"""What `tttvideo predict` tells a model of each frame: given rows, times, and estimated poses."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tttvideo.data.video.camera import CameraPose
from tttvideo.data.video.conditions import find_condition, read_condition, seconds_between
from tttvideo.data.video.sources import VideoSource
from tttvideo.sampling.given_conditions import GivenConditions, check_fits, conditions_read
from tttvideo.sampling.saved_states import SavedState
from tttvideo.video.conditions import Conditions
from tttvideo.video.frame_codec import PATCH
from tttvideo.video.frame_model import FrameModel, FrameModelConfig


Images = Sequence[np.ndarray] | np.ndarray

BATCH = 16  # frames that are read at once
GIVEN = "actions", "poses", "classes"  # conditions that come from files


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


def frame_conditions(
    network: object,
    options: argparse.Namespace,
    source: VideoSource,
    saved: SavedState | None,
    clock: tuple[np.ndarray, float],
    counts: tuple[int, int],
) -> FrameConditions:
    """What the model reads of all frames that are read and predicted.

    Rows are those of the options, or else of the files beside the video; poses that are in neither
    are estimated. Prints where each is from. Raises ValueError where there is none, and for rows
    that are too few or not of the model's form.

    clock: seconds of the video's frames, and frames per second beyond them.
    counts: frames of the context and of the horizon.
    """
    config = network.config if isinstance(network, FrameModel) else FrameModelConfig()
    reads, rows, about = conditions_read(config), {}, {}
    for name in GIVEN:
        if found := condition_file(name, options, source, name in reads):
            file, number = found
            rows[name] = enough(read_condition(file, name, number), name, file, counts)
            check_fits(config, name, rows[name], file)
            about[name] = str(file)
            print(f"{name} of each frame: {file}")
        elif name in reads:
            can_estimate = name == "poses" and config.address.poses == "shift"
            about[name] = "estimated" if can_estimate else "missing"
            if reads[name] and not can_estimate:
                raise ValueError(f"the model reads {name}: {remedy(name, source.path, counts)}")
            print(f"note: no {name} beside {source.path}, so they are {about[name]}")
    if "seconds" in reads:
        times, fps = clock
        beyond = times[-1] + np.arange(1, sum(counts) + 1) / fps
        rows["seconds"] = seconds_between(np.append(times, beyond))
    camera = estimated_poses(about.get("poses") == "estimated", saved)
    return FrameConditions(GivenConditions(rows), camera, about)


def condition_file(
    name: str, options: argparse.Namespace, source: VideoSource, read: bool
) -> tuple[Path, int | None] | None:
    """The file of a condition, the option's or else that of the video, and the video's number."""
    given = getattr(options, name, None)
    if given and not read:
        raise ValueError(f"--{name} {given}: {options.checkpoint} reads no {name}; leave it out")
    if given:
        return Path(given), None
    beside = find_condition(source.path, name) if read else None
    return (beside, source.number) if beside else None


def enough(rows: np.ndarray, name: str, file: Path, counts: tuple[int, int]) -> np.ndarray:
    """The rows, refused where there are fewer than frames; one class is that of all frames."""
    known, ahead = counts
    if name == "classes" and len(rows) == 1:
        return rows.repeat(known + ahead)
    if len(rows) < known + ahead:
        raise ValueError(
            f"{file} has {len(rows)} rows of {name}, and {known} frames of context and {ahead} of "
            f"horizon need {known + ahead}; give more rows, or choose a shorter --horizon"
        )
    return rows


def remedy(name: str, video: Path, counts: tuple[int, int]) -> str:
    beside = f"put {video.stem}.{name}.npy beside {video}"
    if name == "classes":
        return f"{beside}, which may hold one number"
    return f"give --{name} FILE, or {beside}, with a row for each of {sum(counts)} frames"


def estimated_poses(estimate: bool, saved: SavedState | None) -> EstimatedPoses | None:
    """Raises ValueError for a saved state whose poses were not found in the same way."""
    if saved and estimate != (saved.camera is not None):
        before, now = ("given", "estimated") if estimate else ("estimated", "given")
        raise ValueError(
            f"--load-state: the poses before it were {before}, and those of this video are {now}; "
            "give poses to both runs, or to neither"
        )
    return EstimatedPoses(saved.camera if saved else None) if estimate else None
