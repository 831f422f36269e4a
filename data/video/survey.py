"""Every frame of videos, read once in processes of their own: what a video holds, or what is wrong.

A decoder may loop for ever while it holds Python's lock, or crash its process. So children read,
one video after another, and each sets the system's alarm anew at every frame: a child whose next
frame does not come is ended by the system, even if its parent is gone. That costs the one video.
"""

import math
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from tttvideo.data.cores import cores
from tttvideo.data.inputs import DISK, stamp
from tttvideo.data.tokens import file_hash

from .images import ImageReader, Pictures
from .probe import Turn, VideoError, VideoInfo, is_mirrored, one_line
from .reader import Frame, VideoReader
from .sources import VideoSource


SIZE = 32  # pixels to which frames are resized
LIMIT = 60.0  # seconds for the next frame
UNSTEADY = 0.1  # share of a frame's time by which others may differ, if it is above TICK
TICK = 0.002  # seconds; Matroska rounds stamps to 1 ms, two of which bound a frame

Alive = Callable[[int], None]
"""To be called at every frame, with 0, and before a file of that many bytes is read."""


@dataclass(frozen=True)
class Survey:
    """What was found in one video; unknown facts are None."""

    path: str
    number: int | None
    """of the video inside an array file that holds several"""
    given_fps: float | None
    """frames per second that were given to pictures or an array"""
    bytes: int
    changed: int
    """time of the last change, in ns"""
    status: str
    """ok; bad: refused with a reason; hang: no next frame came; crash: its process ended"""
    reason: str = ""
    sha256: str | None = None
    """of the file, or of the names and hashes of all pictures"""
    frames: int = 0
    """frames that were read; all, if the status is ok"""
    first: float | None = None
    last: float | None = None
    """seconds of the first and the last frame that were read"""
    constant: bool | None = None
    """whether frames come at a constant rate"""
    repeats: int = 0
    """frames that equal the one before, at the size of the survey"""
    fps: float | None = None
    """frames per second as declared; 0.0 if the file does not declare them"""
    width: int | None = None
    height: int | None = None
    """as shown"""
    rotation: int | None = None
    """degrees, clockwise, by which stored frames are turned"""
    codec: str | None = None
    container: str | None = None
    reader: str | None = None
    reader_reason: str | None = None
    flags: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """what the reader said: changes of size, frames that are lost, a high dynamic range"""

    @property
    def source(self) -> VideoSource:
        return VideoSource(Path(self.path), self.number, self.given_fps)

    @property
    def seconds(self) -> float:
        """The time that the frames are shown, the last as long as the others on average."""
        if self.last and self.frames > 1:
            return self.last * self.frames / (self.frames - 1)
        return self.frames / (self.fps or 1.0)


def survey(
    sources: Iterable[VideoSource],
    size: int = SIZE,
    limit: float = LIMIT,
    workers: int | None = None,
) -> Iterator[Survey]:
    """Read videos in child processes. Yields what was found in each, in the order of their ends.

    A child serves many videos, so that its start (0.3 s of CPU time) is paid once per worker, and
    once more for each video that ends a child.

    size: pixels to which frames are resized.
    limit: seconds until a video's next frame; until its first, more by the bytes of its file.
    workers: children; None: one per core.
    """
    waiting = iter(sources)
    busy: dict[Any, Child] = {}  # by the pipes, on which their results come
    try:
        for source in islice(waiting, workers or cores()):
            child = Child(size, limit)
            child.give(source)
            busy[child.pipe] = child
        while busy:
            for pipe in wait(list(busy)):
                child = busy.pop(pipe)
                found = child.result()
                if following := next(waiting, None):
                    child = child if child.lives else Child(size, limit)
                    child.give(following)
                    busy[child.pipe] = child
                else:
                    child.end()
                yield found
    finally:
        for child in busy.values():
            child.end()


class Child:
    """A process that examines one video after another."""

    def __init__(self, size: int, limit: float):
        context = get_context("spawn")  # a fork may inherit locks that a progress bar holds
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=serve, args=(end, size, limit), daemon=True)
        self.process.start()
        end.close()  # so that the pipe ends with the child
        self.limit, self.lives = limit, True

    def give(self, source: VideoSource) -> None:
        self.source = source
        try:
            self.pipe.send(source)
        except BrokenPipeError:  # the child died after its last result
            self.lives = False

    def result(self) -> Survey:
        """What the child found, or how it ended."""
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            self.lives = False
        code = self.process.exitcode or 0
        status, reason = "crash", f"{self.source.name}: the decoder ended with {ending(code)}"
        if code == -signal.SIGALRM:
            status = "hang"
            reason = f"{self.source.name}: no further frame came within {self.limit:g} seconds"
        return Survey(*known(self.source), status, reason)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def ending(code: int) -> str:
    if code >= 0:
        return f"code {code}"
    memory = " (perhaps the memory was full)" if code == -signal.SIGKILL else ""
    return signal.Signals(-code).name + memory


def serve(pipe: Connection, size: int, limit: float) -> None:
    """The child: examine the videos that come through the pipe until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its children
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process without Python's help

    def alive(size: int) -> None:
        signal.setitimer(signal.ITIMER_REAL, limit + size / DISK)

    while True:
        try:
            source = pipe.recv()
        except EOFError:
            return
        found = examine(source, size, alive)
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send(found)


def examine(source: VideoSource, size: int, alive: Alive) -> Survey:
    """Read every frame of a video."""
    alive(0)
    start, tally = known(source), Tally()
    *_, bytes_, changed = start
    facts: dict[str, Any] = {}
    status, reason = "ok", ""
    try:
        alive(bytes_)
        facts |= {"sha256": content_hash(source.path, changed)}
        alive(bytes_)
        reader = source.open(size)
        facts |= facts_of(reader.info) | {"flags": flags_of(source, reader)}
        try:
            for frame in reader:
                tally.add(frame)
                alive(0)
        finally:  # which reader served is known when it has read
            facts |= {"reader": reader.backend, "reader_reason": reader.reason}
            facts |= {"notes": list(reader.notes)}
        if not tally.frames:
            raise VideoError(f"{source.path} has no frame; leave it out")
    except Exception as error:  # whatever a decoder raises costs this video only
        named = isinstance(error, VideoError)
        status, reason = "bad", str(error) if named else f"{source.name}: {one_line(error)}"
        with suppress(Exception):
            facts |= facts_of(source.info())  # which may be declared though frames are damaged
    facts |= tally.facts()
    if facts["constant"] is False:
        facts["flags"] = [*facts["flags"], "variable rate"]
    return Survey(*start, status, reason, **facts)


def known(source: VideoSource) -> tuple[str, int | None, float | None, int, int]:
    """The first facts of a survey: what identifies the video, size and time of change."""
    size, changed = stamp(source.path)
    return str(source.path), source.number, source.fps, size, changed


@lru_cache(maxsize=1)  # an array has many videos
def content_hash(path: Path, changed: int) -> str:
    if not path.is_dir():
        return file_hash(path)
    files = Pictures(path, 1.0).files
    return sha256(
        "".join(f"{file.name} {file_hash(file)}\n" for file in files).encode()
    ).hexdigest()


def facts_of(info: VideoInfo) -> dict[str, Any]:
    return {
        "fps": info.fps,
        "width": info.width,
        "height": info.height,
        "rotation": rotation(info.turn),
        "codec": info.codec,
        "container": info.container.split(",")[0],
    }


def flags_of(source: VideoSource, reader: VideoReader | ImageReader) -> list[str]:
    info, index = reader.info, reader.index
    flags = {
        "interlaced": info.interlaced,
        "mirrored": is_mirrored(info.turn),
        "edit list": index.hidden > 0,
        "no time stamps": not index.stamped,
        "several streams": info.streams > 1,
        "numbers skip": source.path.is_dir() and numbers_skip(Pictures(source.path, 1.0).files),
    }
    return [flag for flag, holds in flags.items() if holds]


def numbers_skip(pictures: list[Path]) -> bool:
    """Whether the last numbers in the names of pictures grow by different steps."""
    found = [re.findall(r"\d+", file.stem) for file in pictures]
    numbers = [int(digits[-1]) for digits in found if digits]
    return len(numbers) == len(pictures) and len(set(np.diff(numbers).tolist())) > 1


@dataclass
class Tally:
    """Facts of the frames that were read so far."""

    frames: int = 0
    repeats: int = 0
    first: float | None = None
    last: float | None = None
    shortest: float = math.inf
    longest: float = 0.0
    """seconds from a frame to the next"""
    image: np.ndarray | None = None

    def add(self, frame: Frame) -> None:
        if self.last is None or self.image is None:
            self.first = frame.time
        else:
            self.repeats += np.array_equal(frame.image, self.image)
            step = frame.time - self.last
            self.shortest, self.longest = min(self.shortest, step), max(self.longest, step)
        self.frames += 1
        self.last, self.image = frame.time, frame.image

    def constant(self) -> bool:
        """Whether frames come at a constant rate, up to the rounding of their stamps."""
        if self.frames < 2:
            return True
        mean = (self.last or 0.0) / (self.frames - 1)
        return max(mean - self.shortest, self.longest - mean) <= max(UNSTEADY * mean, TICK)

    def facts(self) -> dict[str, Any]:
        facts = {name: getattr(self, name) for name in ("frames", "repeats", "first", "last")}
        return facts | {"constant": self.constant() if self.frames else None}


def rotation(turn: Turn) -> int:
    """Degrees, clockwise; of a mirrored picture, those of its rows."""
    return round(math.degrees(math.atan2(turn[1], turn[0]))) % 360
