"""Videos of cells: every 8 x 8 patch of a frame has one colour of a palette, and is a token.

F frames, G cells along a side of a frame, P = G^2.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


PATCH = 8  # pixels along a side of a cell
GROUND, GREY, WHITE = range(3)
"""The tokens of the greys, which come before those of colours where a world has greys."""
NEVER, LAST = -1, 1
"""Ages: what a cell shows cannot be known; it follows from the last frame."""


class CellVideo(NamedTuple):
    """What the cells of a video show, and since when that can be known."""

    cells: np.ndarray
    """(F, G, G) tokens, integers"""
    ages: np.ndarray
    """(F, G, G) frames since what a cell shows was seen, NEVER or LAST"""


def still_video(frames: int, grid: int) -> CellVideo:
    """Ground in every cell; what it shows is known from the last frame on."""
    cells = np.full((frames, grid, grid), GROUND)
    ages = np.full((frames, grid, grid), LAST)
    ages[:1] = NEVER
    return CellVideo(cells, ages)


def border(grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the cells along the border, clockwise from the upper left."""
    along = np.arange(grid - 1)
    rows = np.concatenate((0 * along, along, 0 * along + grid - 1, grid - 1 - along))
    return rows, np.roll(rows, grid - 1)


def paint(cells: np.ndarray, palette: np.ndarray) -> Iterator[np.ndarray]:
    """Frames (8 G, 8 G, 3) uint8 of cells (F, G, G), in the colours (V, 3) of the palette."""
    for frame in cells:
        yield palette[frame].repeat(PATCH, axis=0).repeat(PATCH, axis=1)
