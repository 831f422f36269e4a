"""Every frame of a video, in order, checked.

decord reads the files that it is known to read exactly: its frame order is right only for a
container with a true index, it repeats frames that an edit list hides, and it cannot open AV1. PyAV
reads all others, and those that decord refuses or counts otherwise. While decord reads, PyAV
decodes the same file without making pictures and checks every frame, because decord returns
concealed damage as a picture. Where the picture changes its size, PyAV reads the rest alone. Both
resize bilinearly with FFmpeg's scaler: they agree to 40 dB or more, and exactly when nothing is
resized.

The n-th frame has the n-th of the packets' sorted stamps, since a decoder's own stamp is wrong
where a container keeps the order of decoding only (AVI). Where packets do not count frames (fields,
VP8), a frame keeps its own stamp if that rises, sorted among its neighbours' in AVI.
"""

import logging
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from importlib.util import find_spec
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from av import VideoFrame
from av.video.reformatter import VideoReformatter

from .hdr import to_standard
from .probe import (
    COUNTED_CODECS,
    Index,
    Turn,
    VideoError,
    VideoInfo,
    checked_frames,
    is_mirrored,
    one_line,
    probe,
    read_index,
    shown_size,
)


BACKENDS = ("auto", "decord", "pyav")
CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # those with a true index
DECORD_CODECS = ("h264", "hevc", "vp9")
FARTHEST = 16  # frames between the orders of decoding and showing, the most that H.264 allows
MOST_BYTES = 128 * 2**20  # that decord may hold, which decodes ahead as far as the file goes


class Frame(NamedTuple):
    image: np.ndarray
    """uint8 (size, size, 3), RGB"""
    time: float
    """seconds since the first frame, by the file's time stamps; above that of the frame before"""


def stack_images(frames: Iterable[Frame], count: int) -> Iterator[np.ndarray]:
    """The images of frames, at most `count` at a time: uint8 (N, size, size, 3)."""
    frames = iter(frames)
    while images := [frame.image for frame in islice(frames, count)]:
        yield np.stack(images)


class VideoReader:
    """The shown frames of one file, each once and in order; it can be iterated many times.

    A frame is resized while it is decoded, so that its short side is `size`, and cropped around its
    centre. Memory is bounded for any length. Each iteration opens its own decoder: a reader may be
    passed to other processes, but threads may not share an iteration.

    Arguments:
        path: a video file of any container and codec that FFmpeg reads.
        size: height and width of the frames, in pixels.
        backend: "auto" (decord where it is exact, else PyAV), "decord" or "pyav". After an
            iteration, `backend` and `reason` tell what it came to.
    Raises: VideoError for a file that cannot serve, and during an iteration for damage inside it.
    """

    def __init__(self, path: str | os.PathLike, size: int, backend: str = "auto") -> None:
        check_size(size)
        if backend not in BACKENDS:
            raise ValueError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
        self.info, self.size = probe(path), size
        self.notes: list[str] = []
        self.index = read_index(self.info)
        self.width, self.height = scaled_size(self.info.width, self.info.height, size)
        obstacle = decord_obstacle(self.info, self.index, self.decord_bytes())
        if backend != "pyav":
            obstacle = obstacle or self.refusal()
        if backend == "decord" and obstacle:
            raise VideoError(f"{path}: decord cannot serve: {obstacle}; use backend='auto'")
        self.decord_only = backend == "decord"
        self.backend = "pyav" if obstacle or backend == "pyav" else "decord"
        self.reason = obstacle or ("asked for" if backend == "pyav" else "decord reads it exactly")
        self.choice = self.backend, self.reason

    def __iter__(self) -> Iterator[Frame]:
        self.backend, self.reason = self.choice  # whatever an iteration before came to
        if self.index.lost:
            self.note(
                f"{self.index.lost} frames at its beginning cannot be shown, because what they "
                "refer to was cut off"
            )
        if self.info.transfer:
            self.note(
                f"its high dynamic range ({self.info.transfer}) is mapped to the standard range"
            )
        images = self.decord_images() if self.backend == "decord" else self.pyav_images()
        for image, time in images:
            yield Frame(crop(image, self.size), time)

    def decord_images(self) -> Iterator[tuple[np.ndarray, float]]:
        images = decord_frames(self.info.path, self.width, self.height)
        # the loop filter changes pixels only, and those of PyAV are not used here
        checked = checked_frames(self.info, self.index, self.expected(), skip_loop_filter="all")
        for good, (time, frame) in enumerate(zip(self.index.times, checked, strict=True)):
            if self.resized(frame):
                yield from self.leave_decord(good)
                return
            try:
                image = unpadded(next(images), self.width)
            except Exception as error:  # decord's own errors have no common base
                deque(checked, maxlen=0)  # decord decodes ahead: PyAV finds where the damage is
                raise VideoError(
                    f"{self.info.path} is damaged: decord cannot read all frames "
                    f"({one_line(error)}); re-encode the file or leave it out"
                ) from error
            yield image, float(time)

    def leave_decord(self, good: int) -> Iterator[tuple[np.ndarray, float]]:
        """The images from number `good` on by PyAV, which reads the rest of this iteration."""
        reason = f"the picture changes its size at frame {good}"
        if self.decord_only:
            raise VideoError(f"{self.info.path}: decord cannot serve: {reason}; use backend='auto'")
        self.backend, self.reason = "pyav", reason
        return islice(self.pyav_images(), good, None)

    def pyav_images(self) -> Iterator[tuple[np.ndarray, float]]:
        scaler, last = VideoReformatter(), (self.info.width, self.info.height)
        for frame, time in self.timed(checked_frames(self.info, self.index, self.expected())):
            shown = shown_size(frame, self.info.aspect, self.info.turn)
            if shown != last:
                before, last = last, shown
                self.note(
                    f"the picture changes from {size_text(before)} to {size_text(shown)} at "
                    f"{time:.2f} s; both are scaled to {self.size}x{self.size}"
                )
            width, height = scaled_size(*shown, self.size)
            if not self.info.turn[0]:
                width, height = height, width
            form = "rgb48le" if self.info.transfer else "rgb24"
            scaled = scaler.reformat(frame, width, height, form, interpolation="BILINEAR")
            image = scaled.to_ndarray()
            if self.info.transfer:
                image = to_standard(image, self.info.transfer)
            yield turn_image(image, self.info.turn), time

    def note(self, text: str) -> None:
        """Say something that a user should know about this file, once."""
        if text not in self.notes:
            self.notes.append(text)
            logging.getLogger("tttvideo").warning("%s: %s", self.info.path, text)

    def resized(self, frame: VideoFrame) -> bool:
        shown = shown_size(frame, self.info.aspect, self.info.turn)
        return shown != (self.info.width, self.info.height)

    def timed(self, frames: Iterator[VideoFrame]) -> Iterator[tuple[VideoFrame, float]]:
        """Frames with their seconds; their own stamps serve where packets do not count frames."""
        if self.expected():
            return zip(frames, self.index.times.tolist(), strict=True)
        ahead = FARTHEST if self.info.container == "avi" else 0
        return own_times(in_order(frames, ahead), 1 / (self.info.fps or 1.0))

    def expected(self) -> int:
        """The number of frames that must come; 0 if packets do not show it (fields; VP8)."""
        counted = self.info.codec in COUNTED_CODECS and not self.info.interlaced
        return len(self.index.times) if counted else 0

    def refusal(self) -> str:
        """Why decord does not open this file, or counts other frames than the index; or nothing."""
        try:
            count = len(open_decord(self.info.path, self.width, self.height))
        except Exception as error:  # decord's own errors have no common base
            return f"decord cannot open it ({one_line(error)})"
        expected = len(self.index.times)
        same = count == expected
        return "" if same else f"decord counts {count} frames, and {expected} can be shown"

    def decord_bytes(self) -> int:
        """Bytes that decord may hold when the caller pauses: the file, and all decoded frames."""
        row = 64 * math.ceil(3 * self.width / 64)
        return len(self.index.times) * self.height * row + self.info.path.stat().st_size


def check_size(size: int) -> None:
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"size is {size!r}; it must be a whole number of pixels, at least 1")


def decord_obstacle(info: VideoInfo, index: Index, held: int) -> str:
    """The reason why decord cannot read this file exactly in bounded memory; empty if it can."""
    known = f"{', '.join(DECORD_CODECS)} in mp4, mov, mkv or webm"
    this = f"{info.codec} in {info.container.split(',')[0]}"
    obstacles = {
        "decord is not installed": find_spec("decord") is None,
        f"decord is exact for {known}, and this is {this}": (
            info.container not in CONTAINERS or info.codec not in DECORD_CODECS
        ),
        f"the file has {info.streams} video streams": info.streams > 1,
        f"the picture has a high dynamic range ({info.transfer})": info.transfer != "",
        "the frames are interlaced": info.interlaced,
        "the picture is mirrored": is_mirrored(info.turn),
        "decord does not check its frames' checksums": info.strict == "crccheck",
        f"an edit list hides {index.hidden} frames": index.hidden > 0,
        f"{index.lost} frames at its beginning cannot be shown": index.lost > 0,
        "frames share a time stamp": not index.stamped,
        f"decord may come to hold {held >> 20} MiB, above {MOST_BYTES >> 20}": held > MOST_BYTES,
    }
    return next((text for text, holds in obstacles.items() if holds), "")


def open_decord(path: Path, width: int, height: int) -> Any:
    """A decord reader that repeats no frame in place of a bad one."""
    import decord

    decord.logging.set_level(decord.logging.FATAL)  # an exception has the message
    return decord.VideoReader(
        os.path.abspath(path),
        width=width,  # always both: else it holds frames of full size
        height=height,
        num_threads=1,
        fault_tol="0.000000001",  # a share of the frames; 1 would allow one, and 0 any number
    )


def decord_frames(path: Path, width: int, height: int) -> Iterator[np.ndarray]:
    """Images as decord gives them; it raises at the end of the file, and at damage before it."""
    reader = open_decord(path, width, height)
    while True:
        try:
            image = reader.next()
        except StopIteration:
            raise EOFError("its frames end") from None
        yield image.asnumpy()


def in_order(frames: Iterator[VideoFrame], ahead: int) -> Iterator[tuple[VideoFrame, float | None]]:
    """Frames with the seconds of their stamps, sorted as far as `ahead` of them reach.

    In a container that keeps the order of decoding only (AVI), frames carry each other's stamps.
    """
    waiting, stamps = deque[VideoFrame](), list[float]()
    for frame in chain(frames, repeat(None, ahead)):
        if frame is not None:
            waiting.append(frame)
            if frame.time is not None:
                heappush(stamps, frame.time)
        if len(waiting) > ahead or (frame is None and waiting):
            yield waiting.popleft(), heappop(stamps) if stamps else None


def own_times(
    frames: Iterator[tuple[VideoFrame, float | None]], step: float
) -> Iterator[tuple[VideoFrame, float]]:
    """Frames with the seconds since the first; `step` after the last where stamps do not rise."""
    start, last = None, -step
    for frame, stamp in frames:
        start = stamp or 0.0 if start is None else start
        own = last if stamp is None else stamp - start
        last = own if own > last else last + step
        yield frame, last


def unpadded(image: np.ndarray, width: int) -> np.ndarray:
    """decord's image without the padding of its rows, which at some widths becomes channels.

    For example, a row of 48 pixels is padded from 144 to 192 bytes and comes as 48 pixels of four.
    """
    height = len(image)
    return image.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)


def scaled_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height in proportion, with `size` as the shorter of them."""
    short = min(width, height)
    return max(size, round(width * size / short)), max(size, round(height * size / short))


def size_text(size: tuple[int, int]) -> str:
    return "{}x{}".format(*size)


def crop(image: np.ndarray, size: int) -> np.ndarray:
    """The centre of an image, (size, size, 3)."""
    top, left = ((length - size) // 2 for length in image.shape[:2])
    return image[top : top + size, left : left + size].copy()  # so that the large image is freed


def turn_image(image: np.ndarray, turn: Turn) -> np.ndarray:
    """The image (height, width, 3) in the orientation in which it is shown."""
    a, b, c, d = turn
    if not a:
        image = image.swapaxes(0, 1)
    return image[:: b + d, :: a + c]
