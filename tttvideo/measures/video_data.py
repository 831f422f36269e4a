"""The videos that models are measured on: frames, conditions and ages, piece by piece.

Videos of equal length are read side by side as a batch. Only the frames of one piece are held, so
a batch of long videos needs no more memory than one of short videos.

B videos of a batch, F frames of a piece, S pixels of height and width, P tokens per frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tttvideo.data.inputs import stamp
from tttvideo.data.video.clips import condition_stamps
from tttvideo.data.video.conditions import find_condition, read_condition
from tttvideo.data.video.images import ImageReader
from tttvideo.data.video.probe import VideoError
from tttvideo.data.video.reader import Frame, VideoReader
from tttvideo.data.video.sources import VideoSource, find_videos
from tttvideo.progress import progress
from tttvideo.states import tree_map
from tttvideo.video.conditions import Conditions
from tttvideo.video.frame_codec import FrameCodec

from .frame_conditions import BATCH, FrameConditions, frame_conditions


@dataclass(frozen=True)
class Piece:
    """The next F frames of B videos."""

    begin: int
    """number of the first frame"""
    images: Tensor
    """(B, F, S, S, 3) uint8"""
    conditions: Conditions
    """what the model reads of these frames; of poses one more, that of the frame after them"""
    ages: Tensor | None
    """(B, F, P) frames since what a token shows was last seen, -1: never; None: not asked for"""


@dataclass(frozen=True)
class OpenedVideo:
    """A video whose frames are counted: F of them are measured."""

    source: VideoSource
    reader: VideoReader | ImageReader
    frames: int

    @property
    def fps(self) -> float:
        """Declared frames per second; 0.0 for none."""
        return self.reader.info.fps

    def ages(self) -> Tensor:
        """(F, P) integers, as `Piece.ages`. Raises ValueError where the video has none."""
        file = find_condition(self.source.path, "ages")
        if file is None:
            path = self.source.path
            raise ValueError(
                f"{path} has no ages; put {path.stem}.ages.npy beside it, as `prepare drawn` and "
                "`prepare maze` do"
            )
        rows = read_condition(file, "ages", self.source.number)
        if len(rows) < self.frames:
            raise ValueError(f"{file} has {len(rows)} rows of ages for {self.frames} frames")
        return torch.from_numpy(rows[: self.frames].astype(np.int64))


def open_videos(
    data: str | Path, size: int, frames: int | None = None, most: int | None = None
) -> list[OpenedVideo]:
    """The videos of a file, folder or glob, in natural order, with their frames `size` high.

    frames: how many to measure of each, from the first on; shorter videos are left out. None: all.
    most: videos, at most, from the first on.
    Raises: ValueError where no video is long enough, and VideoError for one that cannot be read.
    """
    found: list[OpenedVideo] = []
    longest, sources = 0, find_videos([data]).videos
    with progress("opening videos", len(sources), "videos") as advance:
        for source in sources:
            reader = source.open(size)
            length = len(reader.index.times)
            longest = max(length, longest)
            if length >= (frames or 1):
                found.append(OpenedVideo(source, reader, frames or length))
            if len(found) == most:
                break
            advance(1)
    if not found:
        raise ValueError(
            f"{data} has no video of {frames or 1} frames or more; the longest has {longest}"
        )
    return found


def stamps(videos: Sequence[OpenedVideo]) -> list[list[Any]]:
    """What tells whether videos are those of an earlier measurement: path, size, time of change."""
    return [
        [str(v.source.path.resolve()), v.source.number, *stamp(v.source.path), v.frames]
        + condition_stamps(v.source.path)
        for v in videos
    ]


class VideoBatch:
    """B videos of equal length, which are read in order together, with what a model reads of them.

    network: the model, or None for one that reads pixels alone.
    ages: whether to read them too; each video must have them then.
    Raises: ValueError as `conditions_of` and `OpenedVideo.ages` do.
    """

    def __init__(self, videos: Sequence[OpenedVideo], network: object = None, ages: bool = False):
        assert len({video.frames for video in videos}) == 1
        self.videos, self.frames, self.begin = videos, videos[0].frames, 0
        self.open: list[Iterator[Frame]] = [iter(video.reader) for video in videos]
        self.conditions = conditions_of(videos, network)
        self.ages = torch.stack([video.ages() for video in videos]) if ages else None
        self.at_once = min([BATCH, *(one.batch for one in self.conditions)])

    def __len__(self) -> int:
        return len(self.videos)

    def read(self, count: int) -> Piece:
        """The next `count` frames, at most `at_once` of them if a model is to read them."""
        images = [take(one, count, v) for one, v in zip(self.open, self.videos, strict=True)]
        pairs = zip(self.conditions, images, strict=True)
        known = joined([one.read(frames) for one, frames in pairs])
        begin, self.begin = self.begin, self.begin + count
        ages = None if self.ages is None else self.ages[:, begin : self.begin]
        return Piece(begin, torch.from_numpy(np.stack(images)), known, ages)

    def pieces(self, count: int | None = None) -> Iterator[Piece]:
        """The next `count` frames in pieces; None: all that are left."""
        end = self.frames if count is None else self.begin + count
        while self.begin < end:
            yield self.read(min(self.at_once, end - self.begin))

    def ahead(self, frames: int) -> Conditions:
        """What is known of the `frames` frames after those that were read, before they are."""
        return joined([one.ahead(frames, 1) for one in self.conditions])


def batches(
    videos: Sequence[OpenedVideo], network: object = None, at_once: int = 16, ages: bool = False
) -> Iterator[VideoBatch]:
    """The videos in batches of equal length, of at most `at_once` videos, the longest last."""
    by_length: dict[int, list[OpenedVideo]] = {}
    for video in videos:
        by_length.setdefault(video.frames, []).append(video)
    for _, alike in sorted(by_length.items()):
        for begin in range(0, len(alike), at_once):
            yield VideoBatch(alike[begin : begin + at_once], network, ages)


def conditions_of(videos: Sequence[OpenedVideo], network: object) -> list[FrameConditions]:
    """What the model reads of each video besides its pixels.

    Raises: ValueError as `frame_conditions` does, and where one video lacks what others have.
    """
    found = [
        frame_conditions(network, video.source, video.reader.index.times, video.frames)
        for video in videos
    ]
    first, missing = videos[0].source.name, lacking(found[0])
    for video, one in zip(videos, found, strict=True):
        if lacking(one) != missing:
            which = ", ".join(sorted(lacking(one) ^ missing))
            raise ValueError(
                f"one of {first} and {video.source.name} has {which}, and the other has not; give "
                "all videos the same conditions"
            )
    return found


def lacking(conditions: FrameConditions) -> set[str]:
    return {name for name, at in conditions.about.items() if at in ("missing", "estimated")}


def take(frames: Iterator[Frame], count: int, video: OpenedVideo) -> np.ndarray:
    """The next `count` images (count, S, S, 3)."""
    images = [frame.image for frame in islice(frames, count)]
    if len(images) < count:
        raise VideoError(f"{video.source.name} ends before its last frame; leave it out")
    return np.stack(images)


def joined(parts: Sequence[Conditions]) -> Conditions:
    """Conditions of batches of one as those of one batch."""
    return tree_map(lambda *x: torch.cat(x), *parts)


def encode(codec: FrameCodec, images: Tensor) -> Tensor:
    """Tokens (B, F, P) of images (B, F, S, S, 3) uint8, on the codec's device."""
    device = next(chain(codec.parameters(), codec.buffers())).device
    tokens = codec.encode(images.flatten(0, 1).to(device))
    return tokens.unflatten(0, images.shape[:2])


def decode(codec: FrameCodec, tokens: Tensor) -> Tensor:
    """Images (B, F, S, S, 3) uint8, on the CPU, of tokens (B, F, P)."""
    return codec.decode(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2]).cpu()
