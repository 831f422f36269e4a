"""Sources of videos that hang or crash the process that reads them."""

import os
import re
import signal
import time
from dataclasses import dataclass

from tttvideo.data.video.sources import VideoSource


@dataclass(frozen=True)
class Sleeping(VideoSource):
    def open(self, size):
        time.sleep(1e6)


@dataclass(frozen=True)
class Looping(VideoSource):
    """Never returns to Python, and holds its lock; after two frames."""

    def open(self, size):
        reader = super().open(size)
        return LoopingReader(reader)


class LoopingReader:
    def __init__(self, reader):
        self.reader, self.info, self.index = reader, reader.info, reader.index
        self.backend, self.reason = reader.backend, reader.reason

    def __iter__(self):
        frames = iter(self.reader)
        yield next(frames)
        yield next(frames)
        re.match("(a+)+$", "a" * 60 + "b")


@dataclass(frozen=True)
class Crashing(VideoSource):
    def open(self, size):
        os.kill(os.getpid(), signal.SIGSEGV)


@dataclass(frozen=True)
class Raising(VideoSource):
    def open(self, size):
        raise RuntimeError("[12:00:00] /src/decoder.cc:9: [x] no luck\nStack trace")
