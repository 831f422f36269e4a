"""Windows of the true pixels of videos, which are read once and kept in memory.

N frames, S pixels of height and width, F frames of a clip.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tttvideo.progress import progress

from .frame_chunks import Part
from .order import VideoWindows


class Clip(NamedTuple):
    """A clip, or B of them with B as their first axis."""

    frames: Tensor
    """(F, S, S, 3) uint8"""


class ClipWindows(VideoWindows):
    """Consecutive clips of F frames, each inside one video; the last frame of one is the first of
    the next.

    Raises: ValueError if no video has F frames, VideoError for one that is damaged.
    """

    UNIT = "frames"

    def __init__(self, parts: Sequence[Part], size: int, frames: int, may_move: bool = False):
        counts = [len(part.places) for part in parts]
        images = np.empty((sum(counts), size, size, 3), np.uint8)
        with progress("reading videos", len(images), "frames") as advance:
            done = 0
            for part in parts:
                for _, chunk in part.read(0):
                    images[done : done + len(chunk)] = chunk
                    done += len(chunk)
                    advance(len(chunk))
        starts = np.cumsum([0, *counts[:-1]])
        super().__init__(images, frames - 1, 1, starts, may_move=may_move)

    def __getitem__(self, index: int) -> Clip:  # type: ignore[override]  # pixels for tokens
        first, last = self.ends(index)
        return Clip(torch.from_numpy(self.tokens[first : last + 1]))


def check_memory(parts: Sequence[Part], size: int, most: float) -> None:
    """Raise ValueError if the frames of the parts take more than `most` GB."""
    frames = sum(len(part.places) for part in parts)
    needed = frames * 3 * size**2 / 1e9
    if needed > most:
        raise ValueError(
            f"the {frames:,} frames of {size} x {size} pixels take {needed:.2g} GB, and "
            f"data.memory is {most:g}; name fewer videos, choose a smaller data.size, or raise "
            "data.memory"
        )
