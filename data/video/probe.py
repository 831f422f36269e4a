"""The facts that a video file declares, its index of packets, and its frames, checked one by one.

A file is read from its first frame to its last and is never sought in.
"""

import math
import os
import re
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition


COUNTED_CODECS = ("h264", "hevc", "vp9", "av1")  # a packet shows one frame, unless it holds a field
TEXT_ART = ("tty", "bin", "xbin", "adf", "idf")  # FFmpeg would draw any text as a picture
CLOCK = 10  # times the guessed rate: an average above that is no rate of frames
SLACK = 0.1  # seconds by which a file may be shorter than it declares

Turn = tuple[int, int, int, int]
"""(a, b, c, d): the stored pixel (x, y) is shown at (ax + cy, bx + dy)."""
UPRIGHT: Turn = (1, 0, 0, 1)


class VideoError(ValueError):
    """A file that cannot serve; one line names the file, the cause and the remedy."""


@dataclass(frozen=True)
class VideoInfo:
    path: Path
    container: str
    codec: str
    width: int
    """as shown: turned upright, with square pixels"""
    height: int
    fps: float
    """frames per second on average; 0.0 if the file does not declare it"""
    frames: int
    """as declared, which may be more than can be shown; 0 if the file does not declare it"""
    turn: Turn
    interlaced: bool
    streams: int
    """video streams in the file, of which the best is read"""


@dataclass(frozen=True)
class Index:
    """The facts in a file's packets, read without decoding."""

    times: np.ndarray
    """seconds of every shown frame, rising from 0.0; from the frame rate if it has no stamps"""
    hidden: int
    """frames that an edit list hides"""
    stamped: bool
    """every shown frame has a time stamp, and no two share one"""


def probe(path: str | os.PathLike) -> VideoInfo:
    """The facts that a file declares; only its first frame is decoded.

    Raises: VideoError for a file that is missing, empty, no video, or broken at its start.
    """
    with open_video(path) as (container, stream):
        first = next(container.decode(stream), None)
        if first is None:
            raise VideoError(f"{path} has no frame that can be decoded; leave it out")
        turn = turn_of(path, first)
        stored = round(first.width * (stream.sample_aspect_ratio or 1)) or 1, first.height
        width, height = stored if turn[0] else stored[::-1]
        return VideoInfo(
            path=Path(path),
            container=container.format.name,
            codec=stream.codec_context.codec.canonical_name,
            width=width,
            height=height,
            fps=declared_rate(stream),
            frames=stream.frames,
            turn=turn,
            interlaced=first.interlaced_frame,
            streams=len(container.streams.video),
        )


def read_index(info: VideoInfo) -> Index:
    """Read all packets. Raises VideoError for a file that was cut short."""
    stamps, unstamped, hidden, end = array("q"), 0, 0, -math.inf
    with open_video(info.path) as (container, stream):
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise cut_short(info, len(stamps) + hidden)
            if packet.is_discard:
                hidden += 1
            elif packet.size:
                unstamped += packet.pts is None
                stamps.append(packet.pts or 0)
                end = max(end, stamps[-1] + (packet.duration or 0))
        ticks = np.sort(np.frombuffer(stamps, dtype=np.int64))
        tick = float(stream.time_base)
        declared = declared_end(container, stream)
    if declared - end * tick > max(SLACK, 3 / (info.fps or 1.0)):
        raise cut_short(info, len(stamps) + hidden)
    distinct = not unstamped and bool((np.diff(ticks) > 0).all())
    times = (ticks - ticks[:1]) * tick if distinct else np.arange(len(ticks)) / (info.fps or 1.0)
    return Index(times, hidden, distinct)


@contextmanager
def open_video(path: str | os.PathLike) -> Iterator[tuple[Any, Any]]:
    """The container and its best video stream; FFmpeg's errors become VideoErrors."""
    check_file(Path(path))
    try:
        # a playlist may name other files: only this one is read
        options = {"protocol_whitelist": "file"}
        with av.open(
            os.path.abspath(path), options=options, metadata_errors="replace"
        ) as container:
            stream: Any = container.streams.best("video")
            if container.format.name in TEXT_ART:
                raise VideoError(f"{path} is text, not video; leave it out")
            if stream is None or stream.disposition & Disposition.attached_pic:
                raise VideoError(f"{path} has no video stream; leave it out")
            stream.thread_count = 1
            yield container, stream
    except av.FFmpegError as error:
        raise VideoError(
            f"{path} cannot be read as video ({one_line(error)}); leave it out or re-encode it"
        ) from error


def check_file(path: Path) -> None:
    if not path.exists():
        raise VideoError(f"{path} does not exist; check the name")
    if not path.is_file():
        raise VideoError(f"{path} is not a file; name the video files themselves")
    if not path.stat().st_size:
        raise VideoError(f"{path} is empty (0 bytes); fetch it again or leave it out")


def checked_frames(info: VideoInfo, expected: int, **options: str) -> Iterator[av.VideoFrame]:
    """All frames, as PyAV decodes them.

    expected: the number of frames that must come; 0: unknown.
    options: for FFmpeg's decoder.
    Raises: VideoError at a frame that is damaged, missing or of another size.
    """
    good, shape = 0, None
    with open_video(info.path) as (container, stream):
        stream.codec_context.options = options
        try:
            for frame in container.decode(stream):
                shape = shape or (frame.width, frame.height)
                if frame.is_corrupt:
                    raise damaged(info, good, "the next one does not decode cleanly")
                if expected and good == expected:
                    raise damaged(info, good, "more follow than it has packets")
                if (frame.width, frame.height) != shape:
                    raise damaged(info, good, f"then their size changes from {shape}")
                yield frame
                good += 1
        except av.FFmpegError as error:
            raise damaged(info, good, one_line(error)) from error
    if good < expected:
        raise damaged(info, good, f"{expected} were expected")


def turn_of(path: str | os.PathLike, frame: av.VideoFrame) -> Turn:
    """The display matrix. Raises VideoError for an angle that is no multiple of 90 degrees."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d = np.sign(entries := np.frombuffer(matrix, dtype="<i4")[:5]).tolist()
    if not (a or b or c or d):
        return UPRIGHT
    if (a or d) and (b or c):
        angle = round(math.degrees(math.atan2(entries[1], entries[0])))
        raise VideoError(f"{path} is shown turned by {angle} degrees; re-encode it upright")
    return a, b, c, d


def declared_rate(stream: Any) -> float:
    """Frames per second on average; 0.0 if the file does not declare it.

    The average of raw DV, and of an AVI with empty packets, is the rate of a clock (60,000).
    """
    average, guessed = float(stream.average_rate or 0), float(stream.guessed_rate or 0)
    return guessed if not average or average > CLOCK * guessed > 0 else average


def declared_end(container: Any, stream: Any) -> float:
    """The second at which the video ends by its header; 0.0 if only other streams declare one.

    A stream's duration counts from its first stamp, but that of a fragmented mp4, which declares no
    number of frames, counts from 0, as a container's does.
    """
    if stream.duration:
        fragmented = "mp4" in container.format.name and not stream.frames
        first = 0 if fragmented else stream.start_time or 0
        return float((first + stream.duration) * stream.time_base)
    alone = len(container.streams) == 1
    return (container.duration or 0) / av.time_base if alone else 0.0


def cut_short(info: VideoInfo, found: int) -> VideoError:
    declared = f"the {info.frames}" if info.frames else "those"
    return VideoError(
        f"{info.path} is cut short or damaged: it has {found} frames of {declared} it declares; "
        "fetch it again or leave it out"
    )


def damaged(info: VideoInfo, good: int, reason: str) -> VideoError:
    return VideoError(
        f"{info.path} is damaged after {good} good frames: {reason}; fetch it again or leave it out"
    )


def one_line(error: Exception) -> str:
    """The first line of a message, without the place in decord's source and the file's name."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return re.sub(r"^(\[[\d:]+\] \S+: )+(\[.*?\] )?", "", text.strip().splitlines()[0])
