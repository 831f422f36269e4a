"""Frames of videos in a shuffled order, read from disk into a pool of bounded size.

A round delivers every frame of the pool once, shuffled. The place of a frame that was delivered is
taken by the next frame of the videos, which are read one after the other, all of them once in an
epoch, in an order that depends on (seed, epoch) alone. A pool that holds all frames is read once.

N frames, S pixels of height and width, R places in the pool (a round's frames), B frames per batch.
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tttvideo.data.video.images import ImageReader
from tttvideo.data.video.probe import VideoError
from tttvideo.data.video.reader import VideoReader
from tttvideo.data.video.sources import find_videos
from tttvideo.data.video.views import view_of
from tttvideo.progress import progress

from .frame_chunks import CHUNK, ChunkReader, Part, read_ahead
from .lanes import deal
from .order import Wait, check_same, processes


class FrameLoader:
    """Batches (B, S, S, 3) uint8 of frames, or of random views of half of them; it resumes.

    Arguments:
        parts: what to read, of all processes; of those with two readers some frames are views.
        batch_size: B; less if there are fewer frames.
        buffer: the most places of the pool, R, of each process; at least B.
        seed: seed of the order and of the views.
        workers: processes that read videos ahead, each its share of the videos, if the pool does
            not hold all frames; 0: none.
    Raises: VideoError for a video that is damaged.
    """

    def __init__(
        self, parts: Sequence[Part], batch_size: int, buffer: int, seed: int = 0, workers: int = 0
    ):
        self.rank, self.world = processes()
        shares = [share_of(parts, rank, self.world) for rank in range(self.world)]
        totals = [sum(len(part.places) for part in share) for share in shares]
        self.parts, self.total, self.everyone = shares[self.rank], totals[self.rank], sum(totals)
        self.batch_size, self.seed = min(batch_size, min(totals)), seed
        self.given = {"buffer": buffer, "workers": workers}
        self.steps = min(totals) // self.batch_size
        self.whole = self.total <= buffer  # the pool holds all frames
        self.workers = 0 if self.whole else min(workers, len(self.parts))
        self.places = self.total if self.whole else buffer // self.batch_size * self.batch_size
        self.epoch = self.delivered = self.made = 0  # batches made may be ahead of those delivered
        self.wait = Wait()
        self.pool: list[Tensor] = []  # numbers (R,), frames (R, S, S, 3), larger ones

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Tensor]:
        if self.delivered >= len(self):
            self.epoch, self.delivered = self.epoch + 1, 0
        position = self.epoch * len(self) + self.delivered
        if not self.pool or (self.made != position and not self.whole):
            self.fill(position)
        self.made = position
        self.shuffle(self.round_of(position)[0])
        return self.deliver()

    def deliver(self) -> Iterator[Tensor]:
        """The batches of this epoch; each is made in a thread while the one before it is used."""
        batches = self.batches(len(self) - self.delivered)
        with ThreadPoolExecutor(1) as thread:
            coming = thread.submit(next, batches)
            while self.delivered < len(self):
                begin = time.monotonic()
                frames = coming.result()
                self.wait.seconds += time.monotonic() - begin
                self.delivered += 1
                if self.delivered < len(self):
                    coming = thread.submit(next, batches)
                yield frames

    def round_of(self, position: int) -> tuple[int, int]:
        """The round of the batch at a position, and its number in the round."""
        return divmod(position, self.places // self.batch_size)

    def fill(self, position: int) -> None:
        """Read the pool as it is at this position."""
        round_, batch = self.round_of(position)
        self.rest: list[Tensor] = []
        self.chunks = self.supply(0 if self.whole else round_ * self.places)
        with progress("reading videos", self.places, "frames") as advance:
            for begin in range(0, self.places, CHUNK):
                slots = torch.arange(begin, min(begin + CHUNK, self.places))
                self.take(slots)
                advance(len(slots))
        if self.whole:
            self.chunks = iter(())
        self.slots = torch.arange(self.places)  # of the round's frames, in the order of reading
        if not self.whole:
            self.shuffle(round_)
            self.take(self.leaving[: batch * self.batch_size])

    def shuffle(self, round_: int) -> None:
        """Draw the slots of a round in the order in which their frames leave."""
        order = np.random.default_rng((self.seed, round_, 6)).permutation(self.places)
        self.leaving = self.slots[torch.from_numpy(order)]

    def batches(self, count: int) -> Iterator[Tensor]:
        """The next `count` batches that are made from the pool."""
        for _ in range(count):
            round_, batch = self.round_of(self.made)
            if not batch:
                self.shuffle(round_)
            slots = self.leaving[batch * self.batch_size :][: self.batch_size]
            frames = self.views(slots, round_)
            self.made += 1
            if not self.whole:
                self.take(slots)
                if not self.round_of(self.made)[1]:
                    self.slots = self.leaving
            yield frames

    def views(self, slots: Tensor, round_: int) -> Tensor:
        """The frames in these slots, or views of them."""
        numbers, frames, *wide = (torch.from_numpy(x.numpy()[slots.numpy()]) for x in self.pool)
        for larger in wide:
            for row, number in enumerate(numbers.tolist()):
                if view := view_of(self.seed, round_, number):
                    frames[row] = view.of(larger[row : row + 1], frames.shape[1])[0]
        return frames

    def take(self, slots: Tensor) -> None:
        """Put the next frames of the videos into slots of the pool."""
        while len(slots):
            if not self.rest or not len(self.rest[0]):
                self.rest = next(self.chunks)
            if not self.pool:
                self.pool = [x.new_empty(self.places, *x.shape[1:]) for x in self.rest]
            count = min(len(slots), len(self.rest[0]))
            for pool, new in zip(self.pool, self.rest, strict=True):
                pool[slots[:count]] = new[:count]
            slots, self.rest = slots[count:], [x[count:] for x in self.rest]

    def reader(self, epoch: int = 0, turn: int = 0) -> ChunkReader:
        return ChunkReader(self.parts, self.seed, max(1, self.workers), epoch, turn)

    def turn_of(self, position: int) -> tuple[int, int, int]:
        """The epoch and the turn in which a frame of the videos comes, and the frames before it."""
        epoch, place = divmod(position, self.total)
        turns = self.reader().turns(epoch)
        turn = int(np.searchsorted(turns, place, "right")) - 1
        return epoch, turn, position - place + int(turns[turn])

    def supply(self, position: int) -> Iterator[list[Tensor]]:
        """The frames of the videos from a position on, without end.

        Workers take seconds to start, so this process reads what the pool holds first.
        """
        *begin, before = self.turn_of(position)
        *later, border = self.turn_of(position + self.places + self.workers * CHUNK)
        chunks = self.reader(*begin).read(range(max(1, self.workers)))
        ahead = read_ahead(self.reader(*later)) if self.workers else None
        skip, left = position - before, border - before
        while True:
            if not left and ahead is not None:
                chunks, ahead = ahead, None
            chunk = next(chunks)
            if isinstance(chunk, str):
                raise VideoError(chunk)
            if chunk is None:
                continue
            left -= len(chunk[0])
            yield [torch.as_tensor(x[skip:]) for x in chunk]
            skip = max(0, skip - len(chunk[0]))

    def identity(self) -> dict[str, Any]:
        """The facts on which the batch at a position depends; all processes share them, since all
        resume from the state of the first.
        """
        return {
            "order": type(self).__name__,
            "items": self.everyone,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "processes": self.world,
            "views": len(self.parts[0].readers) > 1,
            **self.given,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "delivered": self.delivered, **self.identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_same(state, self.identity())
        self.epoch, self.delivered, self.pool = state["epoch"], state["delivered"], []


def share_of(parts: Sequence[Part], rank: int, world: int) -> list[Part]:
    """The parts that one of several processes reads: whole ones if there are enough, else every
    `world`-th frame of each.
    """
    if len(parts) < world:
        return [replace(p, first=p.first + rank * p.step, step=p.step * world) for p in parts]
    lengths = np.array([len(part.places) for part in parts])
    return [parts[number] for number in deal(lengths, np.arange(len(parts)), world)[rank]]


class HeldFrames(Dataset):
    """Frames to measure with, in memory: all of the parts, or `most` of them, evenly spaced."""

    def __init__(self, parts: Sequence[Part], most: int):
        total = sum(len(part.places) for part in parts)
        step, kept = -(-total // most), []
        with progress("reading held-out videos", total, "frames") as advance:
            for part in parts:
                for numbers, frames in replace(part, readers=part.readers[:1]).read(0):
                    kept.append(frames[numbers % step == 0])
                    advance(len(frames))
        self.frames = torch.from_numpy(np.concatenate(kept))

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Tensor:
        return self.frames[index]


def open_parts(inputs: Sequence[str], sizes: Sequence[int], end: float | None) -> list[Part]:
    """All frames before `end` seconds of the videos, in each of the sizes.

    Raises: ValueError if there are none, and for a video that cannot serve.
    """
    parts, number, found = list[Part](), 0, find_videos(inputs)
    if found.passed_over:
        logging.getLogger("tttvideo").warning("%s: %s", ", ".join(inputs), found.sentence)
    with progress("opening videos", len(found.videos), "videos") as advance:
        for source in found.videos:
            readers = tuple(source.open(size) for size in sizes)
            frames = frames_before(readers[0], math.inf if end is None else end)
            parts += [Part(source.name, readers, number, 0, frames)] if frames else []
            number += frames
            advance(1)
    if not parts:
        raise ValueError(f"no frame before {end} seconds in {', '.join(map(str, inputs))}")
    return parts


def frames_before(reader: VideoReader | ImageReader, end: float) -> int:
    """The frames of a video before `end` seconds; counted by reading where packets do not tell."""
    if reader.expected():
        return int((reader.index.times < end).sum())
    return sum(1 for _ in takewhile(lambda frame: frame.time < end, reader))


def hold_out(parts: Sequence[Part], share: float) -> tuple[list[Part], list[Part]]:
    """Divide parts into those to learn from and those to measure with, from the end: whole videos
    if the share of their number is at least one, else the share of the frames.

    Raises: ValueError if nothing is left to learn from.
    """
    total = sum(len(part.places) for part in parts)
    videos = int(len(parts) * share)
    kept = parts[-videos].number if videos else total - max(1, int(total * share))
    if not kept:
        raise ValueError(f"{total} frame is too few for training and validation")
    spans = [(part, min(part.stop, max(0, kept - part.number))) for part in parts]
    learned = [replace(part, stop=stop) for part, stop in spans if stop]
    return learned, [replace(part, first=stop) for part, stop in spans if stop < part.stop]
