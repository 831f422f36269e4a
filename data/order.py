"""The order in which training reads tokens: windows, shuffled or in lanes, resumable.

A shuffled window begins with a fresh state. A lane reads consecutive windows and carries its state
from each to the next: see data/lanes.py. Both orders are pure functions of (seed, epoch).

T tokens per window, B windows per batch; of video F frames per window, P tokens per frame, T = F P.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from .lanes import Lane, deal_lanes


T = TypeVar("T")


class Conditions(NamedTuple):
    """What is known about the frames of a window besides their tokens; None: not known.

    See CONDITIONS of data/tokens.py. B windows have B as their first axis.
    """

    actions: Tensor | None = None
    """(F,) integers or (F, A) numbers, of the frames that are read"""
    poses: Tensor | None = None
    """(F + 1, 2) integers or (F + 1, D) numbers: of these and of the frame after them"""
    ages: Tensor | None = None
    """(F, P) integers, of the frames that are predicted"""
    seconds: Tensor | None = None
    """(F,) from each frame that is read to the next"""
    classes: Tensor | None = None
    """() the class of the video"""


class Window(NamedTuple):
    """A window, or B of them with B as their first axis."""

    tokens: Tensor
    """(T + 1,) integers: the first T are read, the last T are predicted; of video (T + P,): the
    first F frames are read, the last F are predicted"""
    begins: Tensor | None = None
    """(T,) True where a document begins; None if states are not reset there"""
    fresh: Tensor | None = None
    """() True if the lane starts from a fresh state; None without lanes"""
    conditions: Conditions | None = None
    """of video"""
    rows: Tensor | None = None
    """(2,) of a batch: the rows of this process and of all, that count; None: all rows do"""


def collate(windows: Sequence[Any]) -> Any:
    """Windows, or Conditions, as one with B as the first axis of its tensors."""
    columns = zip(*windows, strict=True)
    return type(windows[0])(*map(stack, columns))


def stack(values: Sequence[Any]) -> Any:
    """Tensors, or tuples of them, of all windows; None if they have none."""
    if values[0] is None:
        return None
    return torch.stack(list(values)) if isinstance(values[0], Tensor) else collate(values)


class Windows(Dataset):
    """Consecutive windows of T + 1 tokens; the last token of one is the first of the next.

    Arguments:
        tokens: an array, or several joined, of N integers.
        length: T.
        span: the first token to use and the one after the last; None: all.
        may_move: let `move_by(n)` shift the windows by n < T tokens; one window less is used.
        starts: the first tokens of documents; with them windows mark where documents begin.
    Raises: ValueError if not even one window fits.
    """

    def __init__(
        self,
        tokens: Any,
        length: int,
        span: tuple[int, int] | None = None,
        may_move: bool = False,
        starts: np.ndarray | None = None,
    ):
        self.tokens, self.length, self.starts, self.offset = tokens, length, starts, 0
        self.first, last = span or (0, len(tokens))
        fit = (last - self.first - 1) // length
        if fit < 1:
            raise ValueError(
                f"{last - self.first} tokens are too few for one window of {length}; "
                "choose a shorter window or prepare more data"
            )
        self.may_move = may_move and fit > 1
        self.count = fit - self.may_move
        self.firsts = np.arange(self.count) == 0

    def move_by(self, offset: int) -> None:
        assert 0 <= offset < self.length
        self.offset = offset if self.may_move else 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Window:
        if not 0 <= index < self.count:
            raise IndexError(index)
        start = self.first + self.offset + index * self.length
        tokens = self.tokens[start : start + self.length + 1].astype(np.int64)
        return Window(torch.from_numpy(tokens), self.document_begins(start))

    def document_begins(self, start: int) -> Tensor | None:
        """(T,) True where a document begins in the window from token `start` on."""
        if self.starts is None:
            return None
        first, last = np.searchsorted(self.starts, (start, start + self.length))
        begins = torch.zeros(self.length, dtype=torch.bool)
        begins[torch.from_numpy(self.starts[first:last] - start)] = True
        return begins


class VideoWindows(Dataset):
    """Consecutive windows of F + 1 frames, each inside one video; the last frame of one is the
    first of the next. Of a video whose frames do not fill its windows the end is left out.

    Arguments:
        tokens: an array, or several joined, of N integers.
        length: T = F P.
        frame: P.
        starts: the first tokens of videos.
        span: the first token to use and the one after the last, of whole frames; None: all.
        may_move: let `move_by(n)`, n < T tokens, shift windows by whole frames, so that the frames
            left out change; of a video of many windows one is then left out.
        conditions: arrays by name with a row per frame.
    Raises: ValueError if not even one window fits.
    """

    MANY, UNIT = 8, "tokens"

    def __init__(
        self,
        tokens: Any,
        length: int,
        frame: int,
        starts: np.ndarray,
        span: tuple[int, int] | None = None,
        may_move: bool = False,
        conditions: Mapping[str, Any] | None = None,
    ):
        self.tokens, self.length, self.frame, self.offset = tokens, length, frame, 0.0
        self.conditions = conditions or {}
        self.frames = length // frame
        first, last = np.array(span or (0, len(tokens))) // frame
        borders = np.unique(np.clip([first, *(starts // frame), last], first, last))
        ahead = np.diff(borders) - 1  # frames that can be predicted, of each video
        fit = ahead // self.frames
        if may_move:
            fit -= fit > self.MANY
        self.firsts = np.concatenate([np.arange(n) == 0 for n in fit])  # the first of their video
        if not len(self.firsts):
            raise ValueError(
                f"no video has the {self.frames + 1} frames that a window of {length} {self.UNIT} "
                "reads and predicts; choose a shorter window or prepare longer videos"
            )
        place = np.concatenate([np.arange(n) for n in fit])
        self.begins = np.repeat(borders[:-1], fit) + place * self.frames
        spare = (ahead - fit * self.frames) * may_move
        self.spare = np.repeat(spare, fit)  # frames that a window can be moved by

    def move_by(self, offset: int) -> None:
        assert 0 <= offset < self.length
        self.offset = offset // self.frame / max(1, self.frames - 1)  # from 0.0 to 1.0

    def __len__(self) -> int:
        return len(self.begins)

    def ends(self, index: int) -> tuple[int, int]:
        """The first and the last frame of a window."""
        first = int(self.begins[index] + round(self.offset * self.spare[index]))
        return first, first + self.frames

    def __getitem__(self, index: int) -> Window:
        first, last = self.ends(index)
        tokens = self.tokens[first * self.frame : (last + 1) * self.frame].astype(np.int64)
        rows = {"actions": (first, last), "poses": (first, last + 1), "ages": (first + 1, last + 1)}
        known = {
            name: torch.from_numpy(whole(array[slice(*rows.get(name, (first, last)))]))
            for name, array in self.conditions.items()
        }
        if "classes" in known:
            known["classes"] = known["classes"][0]
        return Window(torch.from_numpy(tokens), conditions=Conditions(**known))


def whole(values: np.ndarray) -> np.ndarray:
    """A copy as int64 or float32."""
    return values.astype(np.int64 if np.issubdtype(values.dtype, np.integer) else np.float32)


def processes() -> tuple[int, int]:
    """The rank of this process, and the number of those that train together."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


class EpochBatches(Sampler[list[int]]):
    """Batches of indices, shuffled as a pure function of (seed, epoch), without a short last one.

    Each of several processes takes its share of every batch.
    """

    def __init__(self, count: int, batch_size: int, seed: int):
        self.rank, self.world = processes()
        self.count, self.seed = count, seed
        self.batch_size = min(batch_size, max(1, count // self.world))
        self.epoch = self.first = 0

    def __len__(self) -> int:
        return self.count // (self.batch_size * self.world)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        size = self.batch_size * self.world
        for batch in range(self.first, len(self)):
            yield order[batch * size : (batch + 1) * size][self.rank :: self.world].tolist()


class LaneBatches(EpochBatches):
    """Batches of indices, one per lane that has not ended, in the order of data/lanes.py.

    The deal is a pure function of (seed, epoch). Lanes are sorted, the longest first, so that row b
    of a batch is always lane b of its process. Each of several processes takes its share of the
    lanes; one whose lanes have all ended reads a window that does not count.

    firsts: (count,) True for windows that no lane reads with a carried state.
    """

    def __init__(self, firsts: np.ndarray, batch_size: int, seed: int, share_fresh: float):
        super().__init__(len(firsts), batch_size, seed)
        if len(firsts) < self.world:
            raise ValueError(
                f"{len(firsts)} windows are too few for {self.world} processes; prepare more data "
                "or set trainer.devices"
            )
        self.firsts, self.share_fresh = firsts, share_fresh
        self.dealt: int | None = None  # the epoch of the lanes
        self.steps = max(map(len, self.lanes()))

    def lanes(self) -> list[Lane]:
        """Those of all processes in this epoch."""
        if self.dealt != self.epoch:
            self.dealt, random = self.epoch, np.random.default_rng((self.seed, self.epoch))
            self.all = deal_lanes(self.firsts, self.batch_size * self.world, random)
        return self.all

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, len(self)):
            yield [index for index, _ in self.windows(step)] or [0]

    def windows(self, step: int) -> list[tuple[int, bool]]:
        """The windows of this process's lanes, and whether they need a fresh state."""
        own = self.lanes()[self.rank :: self.world]
        return [lane.window(step) for lane in own if step < len(lane)]

    def fresh(self, step: int) -> Tensor:
        """(B,) True for a fresh state: at the first windows of runs, and for some others."""
        dice = np.random.default_rng((self.seed, self.epoch, step, 2))
        drawn = dice.random(self.batch_size * self.world)[self.rank :: self.world]
        needs = [needs for _, needs in self.windows(step)] or [True]
        return torch.from_numpy((drawn[: len(needs)] < self.share_fresh) | np.array(needs))

    def rows(self, step: int) -> Tensor:
        """(2,) the rows of this process and of all, of a step."""
        rows = len(self.windows(step)), sum(step < len(lane) for lane in self.lanes())
        return torch.tensor(rows)


class Wait:
    """The time that a run waits for its data: `seconds`, added up."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def of(self, items: Iterator[T]) -> Iterator[T]:
        """The items, of which each is waited for."""
        while True:
            begin = time.monotonic()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.seconds += time.monotonic() - begin
            yield item


def check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError for a position in data whose order depends on other facts."""
    if (was := before.get("processes")) != (processes := now["processes"]):
        raise ValueError(
            f"the run in --out has {was} processes, and there are {processes}; set trainer.devices "
            "to as many, or start a new run with another --out"
        )
    for name, value in now.items():
        if before.get(name) != value:
            raise ValueError(
                f"cannot resume with other data: {name} was {before.get(name)} and is {value}; "
                "start a new run with another --out"
            )


class ResumableLoader(DataLoader):
    """A DataLoader that resumes at the batch after the last delivered one.

    Arguments:
        step: windows of an epoch are shifted by a random multiple of `step` tokens.
        share_fresh: share of lanes that get a fresh state at each batch; None: no lanes.
        workers: processes that read ahead, which change no batch; 0: none.
    """

    def __init__(
        self,
        dataset: Windows | VideoWindows,
        batch_size: int,
        seed: int = 0,
        step: int = 1,
        share_fresh: float | None = None,
        workers: int = 0,
    ):
        self.batches = EpochBatches(len(dataset), batch_size, seed)
        self.step, self.windows, self.wait = step, dataset, Wait()
        if share_fresh is not None:
            self.batches = LaneBatches(dataset.firsts, batch_size, seed, share_fresh)
        super().__init__(
            dataset, batch_sampler=self.batches, collate_fn=collate, num_workers=workers
        )
        self.epoch = self.delivered = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # the base returns its own class
        # not after the loop: a consumer that counts batches never resumes the generator
        if self.delivered >= len(self):
            self.epoch, self.delivered = self.epoch + 1, 0
        self.batches.epoch, self.batches.first = self.epoch, self.delivered
        steps = self.windows.length // self.step
        random = np.random.default_rng((self.batches.seed, self.epoch, 1))
        self.windows.move_by(self.step * int(random.integers(steps)))
        for batch in self.wait.of(super().__iter__()):
            if isinstance(self.batches, LaneBatches):
                step = self.delivered
                batch = batch._replace(fresh=self.batches.fresh(step), rows=self.batches.rows(step))
            self.delivered += 1
            yield batch

    def identity(self) -> dict[str, Any]:
        """The facts on which the batch at a position depends."""
        batches, windows = self.batches, self.windows
        return {
            "order": type(batches).__name__,
            "items": batches.count,
            "batch_size": batches.batch_size,
            "seed": batches.seed,
            "processes": batches.world,
            "share_fresh": getattr(batches, "share_fresh", None),
            "window": windows.length,
            "resets": isinstance(windows, Windows) and windows.starts is not None,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "delivered": self.delivered, **self.identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_same(state, self.identity())
        self.epoch, self.delivered = state["epoch"], state["delivered"]
