"""Every frame of a video, in order, checked; and writing mp4.

decord reads what it is known to read exactly: its frame order is right only where the container
has a true index, it repeats frames that an edit list hides, and it cannot open AV1. PyAV reads the
rest. While decord reads, PyAV decodes the same file beside it, without making pictures, and
vouches for every frame, because decord shows concealed damage as if it were picture. Both resize
bilinearly with FFmpeg's scaler: they agree to 40 dB or more, and exactly when nothing is resized.

A file is read from its first frame to its last and never sought in: decord's seek is not exact.
"""

import math
import os
import re
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter


BACKENDS = ("auto", "decord", "pyav")
CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # those with a true index
DECORD_CODECS = ("h264", "hevc", "vp9")
COUNTED_CODECS = (*DECORD_CODECS, "av1")  # one packet shows one frame, unless it holds a field
TEXT_ART = ("tty", "bin", "xbin", "adf", "idf")  # FFmpeg would draw any text as a picture
AHEAD = 128 * 2**20  # bytes that decord may come to hold; it decodes ahead as far as the file goes
SLACK = 0.1  # seconds by which a file may be shorter than it declares
UPRIGHT = (1, 0, 0, 1)


class VideoError(ValueError):
    """A file that cannot serve: which one, why, and what to do, in one line."""


class Frame(NamedTuple):
    image: np.ndarray
    """uint8 (size, size, 3), RGB"""
    time: float
    """seconds since the first frame, by the file's own time stamps"""


@dataclass(frozen=True)
class VideoInfo:
    path: Path
    container: str
    codec: str
    width: int
    """as shown: turned upright, pixels made square"""
    height: int
    fps: float
    """frames per second on average; 0.0 when the file does not say"""
    frames: int
    """as declared, which may be more than can be shown; 0 when the file does not say"""
    turn: tuple[int, int, int, int]
    """(a, b, c, d): the stored pixel (x, y) is shown at (ax + cy, bx + dy)"""
    interlaced: bool
    streams: int
    """video streams in the file, of which the best is read"""


@dataclass(frozen=True)
class Index:
    """What a file's packets say, without decoding."""

    times: np.ndarray
    """seconds of every frame that is shown, from 0.0 upwards; by the rate if it has no stamps"""
    hidden: int
    """frames that an edit list hides"""
    stamped: bool
    """every shown frame has a time stamp of its own"""


def batches(frames: Iterable[Frame], count: int) -> Iterator[np.ndarray]:
    """The images of frames, at most `count` at a time: uint8 (N, size, size, 3)."""
    frames = iter(frames)
    while images := [frame.image for frame in islice(frames, count)]:
        yield np.stack(images)


class VideoReader:
    """The frames of one file that can be shown, each once and in order; iterate as often as wanted.

    A frame is resized while it is decoded, so that its short side is `size`, and cropped around its
    centre. Memory is bounded for any length. A decoder belongs to the iteration that opened it, so
    a reader may be handed to other processes; one iteration may not be shared between threads.

    Arguments:
        path: a video file of any container and codec that FFmpeg reads.
        size: height and width of the frames, in pixels.
        backend: "auto" (decord where it is exact, else PyAV; `reason` says why), "decord", "pyav".
    Raises: VideoError for a file that cannot serve, and while iterating for damage inside it.
    """

    def __init__(self, path: str | os.PathLike, size: int, backend: str = "auto") -> None:
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"size is {size!r}; it must be a whole number of pixels, at least 1")
        if backend not in BACKENDS:
            raise ValueError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
        self.info, self.size = probe(path), size
        self.index = read_index(self.info)
        self.width, self.height = fitted(self.info, size)
        obstacle = decord_obstacle(self.info, self.index, self.held_by_decord())
        if backend == "decord" and obstacle:
            raise VideoError(f"{path}: decord cannot serve: {obstacle}; use backend='auto'")
        self.backend = "pyav" if obstacle or backend == "pyav" else "decord"
        self.reason = obstacle or ("asked for" if backend == "pyav" else "decord reads it exactly")

    def __iter__(self) -> Iterator[Frame]:
        images = self.by_decord() if self.backend == "decord" else self.by_pyav()
        for image, time in images:
            yield Frame(centre(image, self.size), time)

    def by_decord(self) -> Iterator[tuple[np.ndarray, float]]:
        reader = open_decord(self.info.path, self.width, self.height, len(self.index.times))
        # the loop filter changes pixels only, and nobody looks at the vouchers'
        vouchers = sound_frames(self.info, self.expected(), skip_loop_filter="all")
        for good, (time, _) in enumerate(zip(self.index.times, vouchers, strict=True)):
            try:
                image = unpadded(reader.next().asnumpy(), self.width)
            except Exception as error:  # decord's own errors have no common base
                raise VideoError(
                    f"{self.info.path} is damaged: decord stops after {good} frames "
                    f"({cause(error)}); re-encode the file or leave it out"
                ) from error
            yield image, float(time)

    def by_pyav(self) -> Iterator[tuple[np.ndarray, float]]:
        upright = self.info.turn[0] != 0
        width, height = (self.width, self.height) if upright else (self.height, self.width)
        scaler, start = VideoReformatter(), None
        for n, frame in enumerate(sound_frames(self.info, self.expected())):
            time = n / (self.info.fps or 1.0) if frame.time is None else frame.time
            start = time if start is None else start
            image = scaler.reformat(frame, width, height, "rgb24", interpolation="BILINEAR")
            yield turned(image.to_ndarray(), self.info.turn), time - start

    def expected(self) -> int:
        """How many frames must come; 0 where packets do not tell (fields; VP8's hidden frames)."""
        counted = self.info.codec in COUNTED_CODECS and not self.info.interlaced
        return len(self.index.times) if counted else 0

    def held_by_decord(self) -> int:
        """Bytes in memory when the caller pauses: the file, and every frame that was decoded."""
        row = 64 * math.ceil(3 * self.width / 64)
        return len(self.index.times) * self.height * row + self.info.path.stat().st_size


def probe(path: str | os.PathLike) -> VideoInfo:
    """What a file declares. Its first frame is decoded, and nothing else.

    Raises: VideoError for a file that is missing, empty, no video, or broken at its start.
    """
    with opened(path) as (container, stream):
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
            fps=float(stream.average_rate or stream.guessed_rate or 0),
            frames=stream.frames,
            turn=turn,
            interlaced=first.interlaced_frame,
            streams=len(container.streams.video),
        )


def read_index(info: VideoInfo) -> Index:
    """Walk through all packets; notice a file that was cut short."""
    stamps, bare, hidden, end = array("q"), 0, 0, 0
    with opened(info.path) as (container, stream):
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise cut_short(info, len(stamps) + hidden)
            if packet.is_discard:
                hidden += 1
            elif packet.size:
                bare += packet.pts is None
                stamps.append(packet.pts or 0)
                end = max(end, stamps[-1] + (packet.duration or 0))
        ticks = np.sort(np.frombuffer(stamps, dtype=np.int64))
        tick = float(stream.time_base)
        declared = declared_length(container, stream)
    if declared - end * tick > max(SLACK, 3 / (info.fps or 1.0)):
        raise cut_short(info, len(stamps) + hidden)
    distinct = not bare and bool((np.diff(ticks) > 0).all())
    times = (ticks - ticks[:1]) * tick if distinct else np.arange(len(ticks)) / (info.fps or 1.0)
    return Index(times, hidden, distinct)


def decord_obstacle(info: VideoInfo, index: Index, held: int) -> str:
    """Why decord would not read this file exactly and in bounded memory; empty when it would."""
    known = f"{', '.join(DECORD_CODECS)} in mp4, mov, mkv or webm"
    this = f"{info.codec} in {info.container.split(',')[0]}"
    obstacles = {
        "decord is not installed": find_spec("decord") is None,
        f"decord is exact for {known}, and this is {this}": (
            info.container not in CONTAINERS or info.codec not in DECORD_CODECS
        ),
        f"the file has {info.streams} video streams": info.streams > 1,
        "the frames are interlaced": info.interlaced,
        "the picture is mirrored": mirrored(info.turn),
        f"an edit list hides {index.hidden} frames": index.hidden > 0,
        "frames share a time stamp": not index.stamped,
        f"decord may come to hold {held >> 20} MiB, above {AHEAD >> 20}": held > AHEAD,
    }
    return next((text for text, holds in obstacles.items() if holds), "")


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[tuple[Any, Any]]:
    """The container and its video stream; FFmpeg's errors become VideoErrors."""
    check_file(Path(path))
    try:
        # a playlist may name files elsewhere: only this one is read
        options = {"protocol_whitelist": "file"}
        with av.open(
            os.path.abspath(path), options=options, metadata_errors="replace"
        ) as container:
            stream = container.streams.best("video")
            if container.format.name in TEXT_ART:
                raise VideoError(f"{path} is text, not video; leave it out")
            if stream is None or stream.disposition & Disposition.attached_pic:
                raise VideoError(f"{path} has no video stream; leave it out")
            stream.thread_count = 1
            yield container, stream
    except av.FFmpegError as error:
        raise VideoError(
            f"{path} cannot be read as video ({cause(error)}); leave it out or re-encode it"
        ) from error


def check_file(path: Path) -> None:
    if not path.exists():
        raise VideoError(f"{path} does not exist; check the name")
    if not path.is_file():
        raise VideoError(f"{path} is not a file; name the video files themselves")
    if not path.stat().st_size:
        raise VideoError(f"{path} is empty (0 bytes); fetch it again or leave it out")


def sound_frames(info: VideoInfo, expected: int, **options: str) -> Iterator[av.VideoFrame]:
    """All frames as PyAV decodes them, until one is damaged, missing or of another shape."""
    good, shape = 0, None
    with opened(info.path) as (container, stream):
        stream.codec_context.options = options
        try:
            for frame in container.decode(stream):
                shape = shape or (frame.width, frame.height)
                if frame.is_corrupt:
                    raise damaged(info, good, "the next one does not decode cleanly")
                if (frame.width, frame.height) != shape:
                    raise damaged(info, good, f"then their size changes from {shape}")
                yield frame
                good += 1
        except av.FFmpegError as error:
            raise damaged(info, good, cause(error)) from error
    if good < expected:
        raise damaged(info, good, f"{expected} were expected")


def open_decord(path: Path, width: int, height: int, expected: int) -> Any:
    """A decord reader that repeats no frame in place of a bad one."""
    import decord

    decord.logging.set_level(decord.logging.FATAL)  # what it would print, an exception says
    try:
        reader = decord.VideoReader(
            os.path.abspath(path),
            width=width,  # always both: else it holds frames of full size
            height=height,
            num_threads=1,
            fault_tol="0.000000001",  # a share of the frames; 1 would allow one, and 0 any number
        )
    except Exception as error:  # decord's own errors have no common base
        raise VideoError(
            f"{path}: decord cannot open it ({cause(error)}); use backend='pyav'"
        ) from error
    if len(reader) != expected:
        raise VideoError(
            f"{path}: decord counts {len(reader)} frames, and {expected} can be shown; "
            "use backend='pyav'"
        )
    return reader


def unpadded(image: np.ndarray, width: int) -> np.ndarray:
    """decord's image without the padding of its rows, which it takes for channels at some widths.

    A row of 48 pixels, for one, is padded from 144 to 192 bytes and comes as 48 pixels of four.
    """
    height = len(image)
    return image.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)


def fitted(info: VideoInfo, size: int) -> tuple[int, int]:
    """Width and height that keep the shape and make the shorter of them `size`."""
    short = min(info.width, info.height)
    return max(size, round(info.width * size / short)), max(size, round(info.height * size / short))


def centre(image: np.ndarray, size: int) -> np.ndarray:
    top, left = ((length - size) // 2 for length in image.shape[:2])
    return image[top : top + size, left : left + size].copy()  # memory of its own


def turn_of(path: str | os.PathLike, frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """The display matrix, where it turns by right angles and mirrors."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d = np.frombuffer(matrix, dtype="<i4")[:5]
    if not (a or b or c or d):
        return UPRIGHT
    if (a or d) and (b or c):
        angle = round(math.degrees(math.atan2(b, a)))
        raise VideoError(f"{path} is shown turned by {angle} degrees; re-encode it upright")
    return tuple(int(np.sign(x)) for x in (a, b, c, d))


def mirrored(turn: tuple[int, int, int, int]) -> bool:
    a, b, c, d = turn
    return a * d - b * c < 0


def turned(image: np.ndarray, turn: tuple[int, int, int, int]) -> np.ndarray:
    """The image (height, width, 3) as it is shown."""
    a, b, c, d = turn
    if not a:
        image = image.swapaxes(0, 1)
    return image[:: b + d, :: a + c]


def declared_length(container: Any, stream: Any) -> float:
    """Seconds that the video stream should last; 0.0 when only others may."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1
    return (container.duration or 0) / av.time_base if alone else 0.0


def cut_short(info: VideoInfo, there: int) -> VideoError:
    declared = f"the {info.frames}" if info.frames else "those"
    return VideoError(
        f"{info.path} is cut short or damaged: {there} frames are there of {declared} it declares; "
        "fetch it again or leave it out"
    )


def damaged(info: VideoInfo, good: int, why: str) -> VideoError:
    return VideoError(
        f"{info.path} is damaged after {good} good frames: {why}; fetch it again or leave it out"
    )


def cause(error: Exception) -> str:
    """Its message in one line, without the place in a source file."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return re.sub(r"^(\[[\d:]+\] \S+: )+", "", text.strip().splitlines()[0])


def write_video(
    path: str | os.PathLike, frames: Iterable[np.ndarray], fps: float, lossless: bool = False
) -> None:
    """Write all frames, uint8 (H, W, 3), into one mp4; see VideoWriter."""
    with VideoWriter(path, fps, lossless) as writer:
        for frame in frames:
            writer.write(frame)


class VideoWriter:
    """A context in which frames go into an mp4; the file is there when the context ends well.

    Until then it has a hidden name in the same folder, and an exception removes it.

    Arguments:
        path: where to; ends in .mp4.
        fps: frames per second, such as 30 or 29.97.
        lossless: keep every bit (RGB, which few players show). Otherwise small files that browsers
            play; their sizes are even, so odd frames repeat their last row or column.
    """

    def __init__(self, path: str | os.PathLike, fps: float, lossless: bool = False) -> None:
        self.path, self.lossless = Path(path), lossless
        if self.path.suffix != ".mp4":
            raise ValueError(f"{path} does not end in .mp4, the only kind that is written")
        if not self.path.parent.is_dir():
            raise ValueError(f"the folder {self.path.parent} does not exist; make it first")
        if not 0.01 <= fps <= 1000:  # NaN too
            raise ValueError(f"fps is {fps}; it must be from 0.01 to 1000 frames per second")
        self.rate = Fraction(fps).limit_denominator(1001)  # 29.97002997 is 30000 / 1001
        self.part = self.path.with_name(f".{self.path.stem}.{os.getpid()}.part")
        self.container = self.stream = self.shape = None

    def __enter__(self) -> "VideoWriter":
        options = {"movflags": "+faststart"}
        self.container = av.open(os.path.abspath(self.part), "w", format="mp4", options=options)
        return self

    def write(self, frame: np.ndarray) -> None:
        assert self.container is not None, "write inside the with block"
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"frame is {frame.dtype} {frame.shape}; it must be uint8 (H, W, 3)")
        self.shape = self.shape or frame.shape
        if frame.shape != self.shape:
            raise ValueError(f"frame is {frame.shape}; the first one was {self.shape}")
        frame = frame if self.lossless else even(frame)
        self.stream = self.stream or self.new_stream(*frame.shape[:2])
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        self.container.mux(self.stream.encode(picture))

    def new_stream(self, height: int, width: int) -> Any:
        """Lossless: short closed GOPs without B-frames, which every reader gets right."""
        if self.lossless:
            codec, pixels, options = "libx264rgb", "rgb24", {"qp": "0", "bf": "0", "g": "30"}
        else:
            codec, pixels, options = "libx264", "yuv420p", {"crf": "16"}
        stream = self.container.add_stream(codec, rate=self.rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        return stream

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            with self.container:
                if kind is None:
                    self.flush()
            if kind is None:
                self.part.replace(self.path)
        finally:
            self.part.unlink(missing_ok=True)

    def flush(self) -> None:
        if self.stream is None:
            raise ValueError(f"no frame was written to {self.path}; write at least one")
        self.container.mux(self.stream.encode(None))


def even(frame: np.ndarray) -> np.ndarray:
    """Repeat the last row or column where their number is odd."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
