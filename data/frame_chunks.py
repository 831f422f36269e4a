"""Chunks of frames of videos, in an order that does not depend on who reads them.

Imports no torch, so that a process that reads ahead starts in half a second.

N frames, S pixels of height and width.
"""

import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, count, cycle, islice, zip_longest
from multiprocessing import get_context
from multiprocessing.connection import Connection

import numpy as np

from tttvideo.data.video.images import ImageReader
from tttvideo.data.video.probe import VideoError
from tttvideo.data.video.reader import VideoReader


CHUNK = 64  # frames that a worker hands over at a time


@dataclass(frozen=True)
class Part:
    """Every `step`-th frame of a video, from `first` to before `stop`."""

    name: str
    """of the video, for people"""
    readers: tuple[VideoReader | ImageReader, ...]
    """of the frames, and of larger ones for views if there are some"""
    number: int
    """of the video's first frame among those of all videos"""
    first: int
    stop: int
    step: int = 1

    @property
    def places(self) -> range:
        return range(self.first, self.stop, self.step)

    def read(self, begin: int) -> Iterator[list[np.ndarray]]:
        """From place `begin` on, at most CHUNK at a time: numbers (N,), frames (N, S, S, 3) uint8,
        and the same frames larger.
        """
        places = self.places[begin:]
        span = places.start, places.stop, places.step
        frames = zip(*(islice(reader, *span) for reader in self.readers), strict=True)
        for chunk in range(0, len(places), CHUNK):
            numbers = self.number + np.array(places[chunk : chunk + CHUNK])
            rows = list(islice(frames, len(numbers)))
            if len(rows) < len(numbers):
                raise VideoError(f"{self.name} has changed; start the run again")
            yield [
                numbers,
                *(np.stack([f.image for f in column]) for column in zip(*rows, strict=True)),
            ]


Chunk = tuple[Part, int]  # a part and a place in it


def read_chunks(chunks: Sequence[Chunk]) -> Iterator[list[np.ndarray]]:
    """The frames of chunks; those of one part follow one another and are read in one go."""
    for number, (part, begin) in enumerate(chunks):
        if not number or not begin:
            frames = part.read(begin)
        yield next(frames)


Frames = list[np.ndarray]


@dataclass(frozen=True)
class ChunkReader:
    """The chunks of the parts, epoch after epoch without end, from a turn of an epoch on.

    The parts of an epoch are shared out over the workers. In each turn every worker gives a chunk,
    or None if it has no more, so that the order does not depend on their speed. An error is given
    as its text.
    """

    parts: Sequence[Part]
    seed: int
    workers: int
    epoch: int = 0
    turn: int = 0

    def chunks(self, epoch: int) -> list[list[Chunk]]:
        """Those of an epoch, of each worker."""
        order = np.random.default_rng((self.seed, epoch, 5)).permutation(len(self.parts))
        parts = [self.parts[number] for number in order]
        shares = [parts[worker :: self.workers] for worker in range(self.workers)]
        return [
            [(part, begin) for part in own for begin in range(0, len(part.places), CHUNK)]
            for own in shares
        ]

    def turns(self, epoch: int) -> np.ndarray:
        """The frames before each turn of an epoch, and at last all."""
        frames = [
            sum(len(c[0].places[c[1] : c[1] + CHUNK]) for c in row if c)
            for row in zip_longest(*self.chunks(epoch))
        ]
        return np.array([0, *accumulate(frames)])

    def read(self, workers: Sequence[int]) -> Iterator[Frames | str | None]:
        """What these workers give, in each turn one after the other."""
        try:
            for epoch in count(self.epoch):
                first = self.turn if epoch == self.epoch else 0
                lists = self.chunks(epoch)
                reads = [read_chunks(lists[worker][first:]) for worker in workers]
                for _ in range(first, max(map(len, lists))):
                    yield from (next(read, None) for read in reads)
        except (VideoError, OSError) as error:
            yield str(error)


def read_ahead(reader: ChunkReader) -> Iterator[Frames | str | None]:
    """What all workers of a reader give, each read by a process that starts now.

    They are new processes, because a decoder may hang in one that was forked. They end when the
    iterator, or this process, is no more.
    """
    context, connections = get_context("spawn"), list[Connection]()
    for worker in range(reader.workers):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=send, args=(reader, worker, theirs), daemon=True)
        process.start()
        theirs.close()
        connections.append(ours)
    return receive(connections)


def receive(connections: Sequence[Connection]) -> Iterator[Frames | str | None]:
    try:
        for connection in cycle(connections):
            yield connection.recv()
    except EOFError:
        yield "a process that reads videos was ended; set data.workers to 0 or a smaller number"


def send(reader: ChunkReader, worker: int, connection: Connection) -> None:
    """Give a worker's chunks until the other end of the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process decides
    with suppress(BrokenPipeError, ConnectionResetError):
        for chunk in reader.read([worker]):
            connection.send(chunk)
