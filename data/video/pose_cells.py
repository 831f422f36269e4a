"""Cells of poses: where a walk has been before, and how long ago.

A frame shows nearly what an earlier frame of its cell showed. Its age is 1 while the walk stays in
the cell; above 1 the walk had left the cell in between.

F frames.
"""

from typing import NamedTuple

import numpy as np

from tttvideo.data.video.drawn.cells import NEVER


class Visits(NamedTuple):
    """What each of F frames has to do with the earlier frames of its cell."""

    ages: np.ndarray
    """(F,) frames since the cell was last visited, or NEVER"""
    first: np.ndarray
    """(F,) the frame in which the cell was first visited"""


def pose_visits(poses: np.ndarray, place: float, turn: float) -> Visits:
    """The visits of the cells of poses (F, 3): x, y and the angle in degrees.

    place: length of a cell on x and on y, in the unit of the poses.
    turn: degrees of a cell, whose middle is a multiple of it.
    """
    turns = np.round(poses[:, 2:] / turn) % round(360 / turn)
    cells = np.hstack((np.floor(poses[:, :2] / place), turns))
    _, first, cell = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    cell = cell.reshape(-1)
    last = np.full(len(first), NEVER)
    ages = np.full(len(poses), NEVER)
    for frame, number in enumerate(cell):
        if last[number] != NEVER:
            ages[frame] = frame - last[number]
        last[number] = frame
    return Visits(ages, first[cell])
