"""Frames into an mp4."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tttvideo.files import replacing


SLOWEST, FASTEST = 0.01, 1000  # frames per second


def writable(fps: float) -> bool:
    """Whether a video can be written at this rate; never at NaN."""
    return SLOWEST <= fps <= FASTEST


def check_rate(path: str | os.PathLike, fps: float) -> None:
    """Raises ValueError for the rate of a file at which nothing can be written; 0.0: not known."""
    if fps and not writable(fps):
        raise ValueError(
            f"{path} has {fps:.4g} frames per second, and videos are written at {SLOWEST} to "
            f"{FASTEST}; give it another rate: ffmpeg -r 25 -i "
            f"{shlex.quote(str(path))} NEW.mp4"
        )


def write_video(
    path: str | os.PathLike, frames: Iterable[np.ndarray], fps: float, lossless: bool = False
) -> None:
    """Write all frames, uint8 (H, W, 3), into one mp4; see video_writer."""
    with video_writer(path, fps, lossless) as writer:
        for frame in frames:
            writer.write(frame)


@contextmanager
def video_writer(
    path: str | os.PathLike, fps: float, lossless: bool = False
) -> Iterator[VideoWriter]:
    """Open an mp4 to write frames into; it appears when the context ends without an error.

    Arguments:
        path: the file to write; ends in .mp4.
        fps: frames per second, such as 30 or 29.97.
        lossless: keep every bit (RGB, which few players show). Otherwise small files that browsers
            play; their sizes are even: odd frames repeat their last row or column.
    """
    path = Path(path)
    if path.suffix != ".mp4":
        raise ValueError(f"{path} does not end in .mp4, the only format that is written")
    if not path.parent.is_dir():
        raise ValueError(f"the folder {path.parent} does not exist; make it first")
    if not writable(fps):
        raise ValueError(f"fps is {fps}; it must be from {SLOWEST} to {FASTEST} frames per second")
    options = {"movflags": "+faststart"}
    with (
        replacing(path) as partial,
        av.open(os.path.abspath(partial), "w", format="mp4", options=options) as container,
    ):
        rate = Fraction(fps).limit_denominator(1001)  # 29.97002997 is 30000 / 1001
        writer = VideoWriter(container, rate, lossless)
        yield writer
        if writer.stream is None:
            raise ValueError(f"no frame was written to {path}; write at least one")
        container.mux(writer.stream.encode(None))  # the frames that the encoder still holds


class VideoWriter:
    """Encodes frames into an open mp4."""

    def __init__(self, container: Any, rate: Fraction, lossless: bool):
        self.container, self.rate, self.lossless = container, rate, lossless
        self.stream: Any = None
        self.shape: tuple[int, ...] = ()

    def write(self, frame: np.ndarray) -> None:
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"frame is {frame.dtype} {frame.shape}; it must be uint8 (H, W, 3)")
        self.shape = self.shape or frame.shape
        if frame.shape != self.shape:
            raise ValueError(f"frame is {frame.shape}; the first one was {self.shape}")
        frame = frame if self.lossless else pad_to_even(frame)
        self.stream = self.stream or self.new_stream(*frame.shape[:2])
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        self.container.mux(self.stream.encode(picture))

    def new_stream(self, height: int, width: int) -> Any:
        """Lossless: short closed GOPs without B-frames, which every reader gets right, and without
        CABAC, which takes ten times as long to write for a fifth of the bytes.

        Otherwise without x264's macroblock tree, which gives other bits at each run.
        """
        if self.lossless:
            options = {"preset": "ultrafast", "qp": "0", "bf": "0", "g": "30"}
            codec, pixels = "libx264rgb", "rgb24"
        else:
            codec, pixels, options = "libx264", "yuv420p", {"crf": "16", "x264-params": "mbtree=0"}
        stream: Any = self.container.add_stream(codec, rate=self.rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        return stream


def pad_to_even(frame: np.ndarray) -> np.ndarray:
    """The frame with its last row or column repeated where their number is odd."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
