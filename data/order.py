"""The order in which training reads tokens: windows, shuffled or in lanes, resumable.

A shuffled window begins with a fresh state. A lane reads consecutive windows and carries its state
from each to the next. Both orders are pure functions of (seed, epoch).

T tokens per window, B windows per batch.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler


class Window(NamedTuple):
    """A window, or B of them with B as their first axis."""

    tokens: Tensor
    """(T + 1,) integers: the first T are read, the last T are predicted"""
    begins: Tensor | None = None
    """(T,) True where a document begins; None if states are not reset there"""
    fresh: Tensor | None = None
    """() True if the lane starts from a fresh state; None without lanes"""


class Frames(Dataset):
    """Frames in memory: (N, size, size, 3) uint8."""

    def __init__(self, frames: Tensor):
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Tensor:
        return self.frames[index]


def collate(windows: list[Window]) -> Window:
    begins = [window.begins for window in windows if window.begins is not None]
    tokens = torch.stack([window.tokens for window in windows])
    return Window(tokens, torch.stack(begins) if begins else None)


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


class EpochBatches(Sampler[list[int]]):
    """Batches of indices, shuffled as a pure function of (seed, epoch), without a short last one.

    Each of several processes takes its share of every batch.
    """

    def __init__(self, count: int, batch_size: int, seed: int):
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if distributed else 0
        self.world = torch.distributed.get_world_size() if distributed else 1
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
    """Batches of indices, one per lane: lane b reads its share of all windows in order.

    The shares are shifted over the corpus as a pure function of (seed, epoch). Each of several
    processes takes its share of the lanes.
    """

    def __init__(self, count: int, batch_size: int, seed: int, share_fresh: float):
        super().__init__(count, batch_size, seed)
        self.share_fresh = share_fresh

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, len(self)):
            yield self.indices(step)

    def indices(self, step: int) -> list[int]:
        shift = np.random.default_rng((self.seed, self.epoch)).integers(self.count)
        lanes = np.arange(self.batch_size * self.world)
        return ((lanes * len(self) + step + shift) % self.count)[self.rank :: self.world].tolist()

    def fresh(self, step: int) -> Tensor:
        """(B,) True for a fresh state: all lanes at step 0, those at window 0, a random share."""
        dice = np.random.default_rng((self.seed, self.epoch, step, 2))
        drawn = dice.random(self.batch_size * self.world)[self.rank :: self.world]
        begins = np.array(self.indices(step)) == 0
        return torch.from_numpy((drawn < self.share_fresh) | begins | (step == 0))


class ResumableLoader(DataLoader):
    """A DataLoader that resumes at the batch after the last delivered one.

    Arguments:
        step: windows of an epoch are shifted by a random multiple of `step` tokens.
        share_fresh: share of lanes that get a fresh state at each batch; None: no lanes.
    """

    def __init__(
        self,
        dataset: Windows | Frames,
        batch_size: int,
        seed: int = 0,
        step: int = 1,
        share_fresh: float | None = None,
    ):
        self.batches = EpochBatches(len(dataset), batch_size, seed)
        if share_fresh is not None:
            self.batches = LaneBatches(len(dataset), batch_size, seed, share_fresh)
        self.step, self.windows = step, dataset if isinstance(dataset, Windows) else None
        super().__init__(
            dataset, batch_sampler=self.batches, collate_fn=collate if self.windows else None
        )
        self.epoch = self.delivered = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # the base returns its own class
        # not after the loop: a consumer that counts batches never resumes the generator
        if self.delivered >= len(self):
            self.epoch, self.delivered = self.epoch + 1, 0
        self.batches.epoch, self.batches.first = self.epoch, self.delivered
        if self.windows is not None:
            steps = self.windows.length // self.step
            random = np.random.default_rng((self.batches.seed, self.epoch, 1))
            self.windows.move_by(self.step * int(random.integers(steps)))
        for batch in super().__iter__():
            if isinstance(self.batches, LaneBatches):
                batch = batch._replace(fresh=self.batches.fresh(self.delivered))
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
            "window": None if windows is None else windows.length,
            "resets": windows is not None and windows.starts is not None,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "delivered": self.delivered, **self.identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in self.identity().items():
            if state.get(name) != value:
                raise ValueError(
                    f"cannot resume with other data: {name} was {state.get(name)} and is {value}; "
                    "start a new run with another --out"
                )
        self.epoch, self.delivered = state["epoch"], state["delivered"]
