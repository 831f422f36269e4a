"""The pan world: a torus of coloured cells, seen through a window that actions move.

A frame shows S x S of the K x K cells, and every cell is a token, so frames need no tokenizer. What
the window shows again was seen before: only memory can predict it. The same arguments draw the same
worlds.

N worlds, F frames, K cells around the torus, C colours, S cells along a side of the window, P = S^2
tokens per frame.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .cells import NEVER, PATCH
from .glyphs import COLOURS, RADIUS, SHAPES, WINDOW, coverage


STEPS = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])
"""(rows, columns) that each action moves the window by: right, down, left, up."""
TURN = 0.35  # chance of another action; else the last one is repeated
DENSITY = 0.2  # glyphs of a drawn texture, per cell


class Pan(NamedTuple):
    """Frames of N worlds, with what is known about them."""

    tokens: np.ndarray
    """(N, F, P) the colours of the cells in the window"""
    actions: np.ndarray
    """(N, F) the action after each frame, which leads to the next"""
    poses: np.ndarray
    """(N, F, 2) row and column of the window's first cell"""
    ages: np.ndarray
    """(N, F, P) frames since the cell of a token was last in the window, or NEVER"""


def pan_worlds(
    worlds: int,
    frames: int,
    size: int = 6,
    colours: int = 8,
    view: int = 4,
    seed: int | tuple[int, ...] = 0,
    actions: np.ndarray | None = None,
) -> Pan:
    """Draw worlds and walk through them.

    Arguments:
        worlds: N.
        frames: F.
        size: K.
        colours: C.
        view: S, at most K.
        seed: chooses colours, starts and walks.
        actions: (N, F) the walks; None: random ones.
    """
    if min(worlds, frames, colours, view) < 1 or view > size:
        raise ValueError(
            f"worlds {worlds}, frames {frames}, colours {colours} and view {view} must be 1 or "
            f"more, and view at most the size {size}"
        )
    random = np.random.default_rng(seed)
    cells = random.integers(colours, size=(worlds, size * size))
    start = random.integers(size, size=(worlds, 1, 2))
    walks = random_walks(random, worlds, frames) if actions is None else actions
    moved = np.cumsum(STEPS[walks[:, :-1]], axis=1)
    poses = np.concatenate((start, start + moved), axis=1) % size
    seen = cells_in_view(poses, size, view)
    tokens = np.take_along_axis(cells[:, None], seen, axis=2)
    return Pan(tokens, walks, poses, ages(seen, size * size))


def random_walks(random: np.random.Generator, worlds: int, frames: int) -> np.ndarray:
    """Actions (N, F): each is repeated until the window turns."""
    drawn = random.integers(len(STEPS), size=(worlds, frames))
    turns = random.random((worlds, frames)) < TURN
    turns[:, 0] = True
    last_turn = np.maximum.accumulate(np.where(turns, np.arange(frames), 0), axis=1)
    return np.take_along_axis(drawn, last_turn, axis=1)


def cells_in_view(poses: np.ndarray, size: int, view: int) -> np.ndarray:
    """Numbers (N, F, P) of the cells that are seen from poses (N, F, 2)."""
    rows, columns = (poses[..., None, axis] + np.arange(view) for axis in (0, 1))
    cells = (rows % size)[..., :, None] * size + (columns % size)[..., None, :]
    return cells.reshape(*poses.shape[:2], view * view)


def ages(cells: np.ndarray, count: int) -> np.ndarray:
    """Frames since each of the cells (N, F, P) was last seen, of `count` cells in a world."""
    last = np.full((len(cells), count), NEVER)
    found = np.empty_like(cells)
    for frame in range(cells.shape[1]):
        before = np.take_along_axis(last, cells[:, frame], axis=1)
        found[:, frame] = np.where(before == NEVER, NEVER, frame - before)
        np.put_along_axis(last, cells[:, frame], frame, axis=1)
    return found


def torus_picture(size: int, rng: np.random.Generator) -> np.ndarray:
    """A picture of glyphs over K x K cells, (8 K, 8 K, 3) uint8, whose ends are joined; K >= 3."""
    side = PATCH * size
    waves = 1 + np.cos(2 * np.pi * np.arange(side) / side)
    picture = np.array((14, 16, 26), np.float32) + 12 * (waves + waves[:, None])[..., None]
    picture = picture.astype(np.float32)
    for _ in range(round(DENSITY * size**2)):
        shape, colour = SHAPES[rng.integers(len(SHAPES))], COLOURS[rng.integers(len(COLOURS))]
        x, y = rng.uniform(0, side, 2)
        window = np.ix_(*((round(place) + WINDOW.astype(int)) % side for place in (y, x)))
        cover = coverage(shape, x, y, rng.uniform(*RADIUS))
        picture[window] += cover * (colour - picture[window])
    return (picture + 0.5).astype(np.uint8)


def views(picture: np.ndarray, poses: np.ndarray, view: int) -> Iterator[np.ndarray]:
    """Frames (8 S, 8 S, 3) of a torus picture, at poses (F, 2) in cells."""
    along = np.arange(PATCH * view)
    for pose in poses:
        yield picture[np.ix_(*((PATCH * place + along) % len(picture) for place in pose))]
