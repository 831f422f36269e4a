"""FFmpeg's log as a witness: decoders and demuxers conceal damage, but report it there.

The log's level belongs to the process, its messages to the thread that decodes, which is the
caller's where a decoder has one thread.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import NamedTuple

import av


NO_PICTURE = re.compile(r"\b(SEI|VUI|APP|ICC|Exif|mmco|edit list)\b", re.IGNORECASE)


class Report(NamedTuple):
    error: bool
    """else a warning, which good files cause too"""
    source: str
    """the decoder or the container's format"""
    text: str
    """one line"""


class Listeners:
    """How many blocks listen now, and the settings from before the first of them."""

    lock, count = Lock(), 0
    level: int | None = None
    skip_repeated = True
    others: av.logging.Capture
    """messages of threads that do not listen: they were not shown before either"""


@contextmanager
def ffmpeg_reports() -> Iterator[list[Report]]:
    """A list that has, after the block, what FFmpeg reports in it."""
    reports: list[Report] = []
    with listening():
        try:
            with av.logging.Capture() as logs:
                yield reports
        finally:
            reports += reports_of(logs)


def reports_of(logs: Iterable[tuple[int, str, str]]) -> list[Report]:
    """FFmpeg's errors and warnings among what was captured.

    Those about other things than pictures are left out: supplemental information, the profile of
    the colours, references to be forgotten that are gone, an edit list.
    """
    return [
        Report(level <= av.logging.ERROR, source, " ".join(text.split()))
        for level, source, text in logs
        if level <= av.logging.WARNING and not NO_PICTURE.search(text)
    ]


@contextmanager
def listening() -> Iterator[None]:
    """Let FFmpeg's log be captured in this block."""
    listen(1)
    try:
        yield
    finally:
        listen(-1)


def listen(change: int) -> None:
    """Set the log up for the first listener, and as it was after the last."""
    with Listeners.lock:
        if not Listeners.count:
            Listeners.level = av.logging.get_level()
            Listeners.skip_repeated = av.logging.get_skip_repeated()
            Listeners.others = av.logging.Capture(local=False)
            Listeners.others.__enter__()
            av.logging.set_level(max(av.logging.WARNING, Listeners.level or 0))
            av.logging.set_skip_repeated(False)  # else the second reading of a file is silent
        Listeners.count += change
        if not Listeners.count:
            av.logging.set_level(Listeners.level)
            av.logging.set_skip_repeated(Listeners.skip_repeated)
            Listeners.others.__exit__(None, None, None)
