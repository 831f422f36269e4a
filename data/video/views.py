"""Views of a clip: crops, flips, colours and speeds that keep what happens in it.

N frames, S pixels of height and width. A view is made from frames that are WIDER times as large as
it is, so that its crops are as sharp as the whole frame. Every frame of a clip has the same view.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from .reader import Frame, stack_images


if TYPE_CHECKING:
    from torch import Tensor


WIDER = 1.25
LEAST = 1 / WIDER  # side of the smallest crop, as a share of the larger frame
AT_ONCE = 64  # frames
COLOURS = 0.8, 1.25  # factors of brightness, contrast and saturation


@dataclass(frozen=True)
class View:
    """What is seen of larger frames."""

    top: float
    left: float
    side: float
    """place and side of the crop, as shares of the larger frame"""
    flip: bool
    brightness: float
    contrast: float
    saturation: float

    def of(self, frames: Tensor, size: int) -> Tensor:
        """The view (N, size, size, 3) of frames (N, S, S, 3), uint8."""
        from torchvision.transforms.v2 import functional as transforms  # takes 2 s to import

        S = frames.shape[1]
        side = max(1, round(self.side * S))
        top, left = (round(share * S) for share in (self.top, self.left))
        x = frames[:, top : top + side, left : left + side].movedim(3, 1)
        if side != size:
            x = transforms.resize(x, [size, size], antialias=True)
        x = transforms.horizontal_flip(x) if self.flip else x
        x = transforms.adjust_brightness(x, self.brightness)
        x = transforms.adjust_contrast(x, self.contrast)
        return transforms.adjust_saturation(x, self.saturation).movedim(1, 3).contiguous()

    def of_images(self, images: np.ndarray, size: int) -> np.ndarray:
        """The same for an array."""
        import torch  # not needed by a process that makes no copies

        return self.of(torch.from_numpy(images), size).numpy()


def random_view(random: np.random.Generator) -> View:
    """A view; in half of them the crop has the size of the view, so that no pixel is resampled."""
    side = LEAST if random.random() < 0.5 else random.uniform(LEAST, 1.0)
    top, left = random.uniform(0, 1 - side, 2)
    low, high = np.log(COLOURS)
    return View(top, left, side, random.random() < 0.5, *np.exp(random.uniform(low, high, 3)))


def larger(size: int) -> int:
    """S, for views of this size."""
    return round(size * WIDER)


def view_of(seed: int, turn: int, number: int) -> View | None:
    """The view of a frame when it is read for the n-th time, for half of the frames; else None.

    The other half is seen as it is: where the camera stands still, most of a frame is where it was.
    """
    random = np.random.default_rng((seed, turn, number, 3))
    return None if random.random() < 0.5 else random_view(random)


@dataclass(frozen=True)
class Copy:
    """A video as it is, or seen in a view, with every frame or every other one."""

    view: View | None = None
    stride: int = 1

    def source_size(self, size: int) -> int:
        """Height and width of the frames that it is made from."""
        return larger(size) if self.view else size

    def images(self, frames: Iterable[Frame], size: int) -> Iterator[np.ndarray]:
        """The copy (N, size, size, 3) uint8 of consecutive frames, at most AT_ONCE at a time."""
        for images in stack_images(islice(frames, 0, None, self.stride), AT_ONCE):
            yield self.view.of_images(images, size) if self.view else images


def copies(place: int, more: int, seed: int) -> list[Copy]:
    """The video itself, and `more` random copies of it; `place` is its number among others."""
    found = [Copy()]
    for number in range(more):
        random = np.random.default_rng((seed, number, place, 4))
        found.append(Copy(random_view(random), int(random.integers(1, 3))))
    return found
