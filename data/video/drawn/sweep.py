"""Worlds that are shown once, view beside view, and then asked for: so many cells to remember.

A world of K x K cells lies at a random place of a torus of `room` x `room`. A camera sweeps it in a
serpentine of views that do not overlap, from a random corner, by rows or by columns, so that every
cell is shown exactly once; then it jumps to views of random places, to ask for what was shown. They
are not the sweep's views, since cells that are always shown together can share a key. The same
arguments draw the same worlds.

N worlds, F frames, K cells along a side of a world, C colours, S cells along a side of a view,
P = S^2 tokens per frame.
"""

from typing import NamedTuple

import numpy as np

from .pan import ages, cells_in_view


class Sweep(NamedTuple):
    """Frames of N worlds, with what is known about them."""

    tokens: np.ndarray
    """(N, F, P) the colours of the cells in the view"""
    poses: np.ndarray
    """(N, F, 2) row and column of the view's first cell on the torus"""
    ages: np.ndarray
    """(N, F, P) frames since the cell of a token was last in the view, or NEVER"""


def swept_worlds(
    worlds: int,
    size: int,
    asked: int,
    colours: int = 8,
    view: int = 2,
    room: int = 32,
    seed: int | tuple[int, ...] = 0,
) -> Sweep:
    """Draw worlds, sweep them in (K / S)^2 frames, and ask in `asked` more.

    Arguments:
        worlds: N.
        size: K, a multiple of the view and at most `room`.
        asked: frames after the sweep.
        colours: C.
        view: S.
        room: cells around the torus.
        seed: chooses colours, places, sweeps and questions.
    """
    if min(worlds, asked, colours, view) < 1 or size % view or not view < size <= room:
        raise ValueError(
            f"worlds {worlds}, asked {asked}, colours {colours} and view {view} must be 1 or more, "
            f"and the size {size} a multiple of the view above it, at most {room}"
        )
    random = np.random.default_rng(seed)
    cells = random.integers(colours, size=(worlds, size * size))
    sweeps = np.stack([sweep(random, size // view) for _ in range(worlds)]) * view
    questions = random.integers(size - view + 1, size=(worlds, asked, 2))
    poses = np.concatenate((sweeps, questions), axis=1)  # in the world, which no view leaves
    seen = cells_in_view(poses, size, view)
    tokens = np.take_along_axis(cells[:, None], seen, axis=2)
    place = random.integers(room, size=(worlds, 1, 2))
    return Sweep(tokens, (poses + place) % room, ages(seen, size * size))


def sweep(random: np.random.Generator, n: int) -> np.ndarray:
    """Rows and columns (n^2, 2) of a serpentine over n x n views, in one of eight directions."""
    rows, columns = np.divmod(np.arange(n * n), n)
    columns = np.where(rows % 2, n - 1 - columns, columns)
    places = np.stack((rows, columns), axis=1)
    places = np.where(random.integers(2, size=2), n - 1 - places, places)
    return places[:, ::-1] if random.integers(2) else places
