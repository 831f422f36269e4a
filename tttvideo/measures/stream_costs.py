"""What a frame costs late in a long stream, compared with early in it: time, state, process.

Frames are read one at a time. To compare times, the first and the last frames are read by turns, a
frame of each from the state that stood before it, so that another load of the machine slows both
alike; what counts are medians, of CPU time on one thread.

P tokens per frame.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

from torch import Tensor

from tttvideo.backbone import Backbone
from tttvideo.progress import Advance
from tttvideo.sampling.frame_streams import AnyPrefix, read_frames
from tttvideo.states import state_bytes
from tttvideo.video.conditions import Conditions
from tttvideo.video.frame_model import FrameModel

from .played import PlayedVideo
from .speed import Clock, resident_bytes


TIMED = 1000  # frames at each end of a stream
SETTLED = 256  # frames after which a state has its full size, a window that fills up included
MORE = 16  # frames after these, in which it may not grow
EVERY = 100  # frames between two looks at memory
ROUNDS = 3  # times that a difference above the bound is measured


@dataclass
class StreamCosts:
    """Costs of a stream.

    frames: that were read, fewer than asked for where the state grows.
    settled: frames after which sizes and times are compared.
    states: bytes of the state after `settled` frames and from then on.
    resident: bytes that the process held, from then on.
    seconds: of each of the first and of the last frames, from then on.
    clock: the kind of seconds.
    """

    frames: int
    settled: int
    states: list[int] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    clock: str = ""

    @property
    def grows(self) -> bool:
        return len(set(self.states)) > 1

    @property
    def growth_per_frame(self) -> float:
        return (self.states[-1] - self.states[0]) / max(1, self.frames - self.settled)

    @property
    def slower(self) -> float:
        """The time of a late frame over that of an early one, less one."""
        return median(self.seconds["last"]) / median(self.seconds["first"]) - 1

    @property
    def more_resident(self) -> float:
        """Growth of the process, as a share, from the first looks at it to the last."""
        looks = max(1, min(TIMED // EVERY, len(self.resident) // 4))
        return median(self.resident[-looks:]) / median(self.resident[:looks]) - 1


class Stream:
    """A video that a model reads frame by frame, from the state that is left after `frames`."""

    def __init__(self, model: FrameModel | Backbone, video: PlayedVideo):
        self.model, self.video = model, video
        self.device = model.embedding.weight.device
        self.frames = 0
        self.prefix: AnyPrefix | None = None

    def next(self) -> tuple[Tensor, Conditions]:
        tokens, known = self.video.read(self.frames, self.frames + 1)
        return tokens.to(self.device), known.to(self.device)

    def read(self, tokens: Tensor, known: Conditions) -> None:
        _, self.prefix = read_frames(self.model, tokens, self.prefix, known)
        self.frames += 1

    def read_to(self, frames: int, look: Callable[[Any], None], advance: Advance) -> None:
        """Read on to the frame of this number, with a look at the prefix every few frames."""
        while self.frames < frames:
            self.read(*self.next())
            advance(1)
            if self.frames % EVERY == 0 or self.frames == frames:
                look(self.prefix)

    def copy(self) -> Stream:
        """Another reader of the same video at the same place; states are never changed in place."""
        other = Stream(self.model, self.video)
        other.frames, other.prefix = self.frames, self.prefix
        return other


def stream_costs(
    model: FrameModel | Backbone,
    video: PlayedVideo,
    frames: int,
    bound: float,
    advance: Advance = lambda _: None,
) -> StreamCosts:
    """Read `frames` frames, at least 8; a state that grows ends it at once.

    bound: above this difference of time it is measured again, to be sure.
    """
    settled, timed = min(SETTLED, frames // 4), min(TIMED, frames // 4)
    device = model.embedding.weight.device.type
    found, stream = StreamCosts(frames, settled), Stream(model, video)

    def look(prefix: Any) -> None:
        found.states.append(state_bytes(prefix))
        found.resident.append(resident_bytes(device))

    stream.read_to(settled, lambda _: None, advance)
    look(stream.prefix)
    early = stream.copy()
    stream.read_to(min(settled + MORE, frames - timed), look, advance)
    if found.grows:
        found.frames = stream.frames
        return found
    stream.read_to(frames - timed, look, advance)
    time_both(found, {"first": early, "last": stream}, timed, bound, advance)
    look(stream.prefix)
    return found


def time_both(
    found: StreamCosts, streams: dict[str, Stream], timed: int, bound: float, advance: Advance
) -> None:
    """Read `timed` frames of both streams by turns; again from the same states, if they differ."""
    clock = Clock(streams["last"].device.type)
    found.clock = clock.name
    starts = {name: stream.copy() for name, stream in streams.items()}
    gc.collect()
    gc.disable()
    try:
        for number in range(ROUNDS):
            if number and found.slower <= bound:
                break
            for name, start in starts.items():
                streams[name].frames, streams[name].prefix = start.frames, start.prefix
            for _ in range(timed):
                for name, stream in streams.items():
                    read_next = partial(stream.read, *stream.next())
                    found.seconds.setdefault(name, []).append(clock(read_next))
                advance(0 if number else 1)
    finally:
        gc.enable()
