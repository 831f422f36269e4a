"""Moments: an instant of a drawn world, what was before it, at any frame rate, and what comes.

A world is drawn at FPS frames a second. Contexts of all rates end with the frame at the instant and
go back from it in even steps, so the frame that a context is asked for, a horizon after the
instant, is the same at every rate.

    flash   A colour is shown for one frame. The instant is the question, a white border; the frame
            after it shows the colour again.
    bounce  A cell in one colour moves straight and bounces off the walls.
    pan     A window moves over a torus of colours, a cell every half second; its pose is given.
    static  A picture of random colours that does not change.

B moments, F frames of a context, G cells along a side of a frame, P = G^2 tokens per frame.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .cells import LAST, WHITE, still_video
from .flash import FLASHES, flash_video
from .pan import cells_in_view, pan_worlds


FPS = 30
GREYS = WHITE + 1
TORUS = 6  # cells around the world of pan
PAUSE = FPS // 2  # frames between two moves of its window
WAIT = 32  # most frames before a flash, and before a question
SPEED = 10.0, 20.0  # of bounce along each axis, cells a second


class Moments(NamedTuple):
    """B moments of a world, from `before` - 1 frames before their instants on."""

    cells: np.ndarray
    """(B, before + after, P) tokens at FPS; those of the instant are cells[:, before - 1]"""
    poses: np.ndarray
    """(B, before + after, 2) row and column of a frame's first cell in the world"""
    asked: np.ndarray
    """(B, after, P) the cells after the instant that are asked for, whatever they show"""
    event: np.ndarray
    """(B,) frames from what tells them to the instant, where one frame tells them; else -1"""


class Contexts(NamedTuple):
    """What is read and predicted: the last of the frames is the target."""

    frames: np.ndarray
    """(B, F + 1, P) tokens"""
    seconds: np.ndarray
    """(B, F) the time from each frame to the next"""
    poses: np.ndarray
    """(B, F + 1, 2)"""
    asked: np.ndarray
    """(B, P) the cells of the target that are asked for"""
    seen: np.ndarray
    """(B,) whether the context holds the frame of the event"""


@dataclass(frozen=True)
class MomentWorld:
    """A kind of moments."""

    draw: Callable[..., Moments]
    """of B, before, after, G, colours, and a generator"""
    horizons: tuple[int, ...]
    """Frames from the instant to the targets."""
    single: bool = False
    """Whether all cells but one are ground, and a target is right where that one is found"""


def at_rate(moments: Moments, frames: int, rate: int, horizons: np.ndarray) -> Contexts:
    """Contexts of F frames at `rate` frames a second, and the frames `horizons` later.

    horizons: (B,), or several for each moment in a row, whose contexts are then alike.
    Raises: ValueError for a rate that FPS is no multiple of, or a context before the first frame.
    """
    if FPS % rate:
        raise ValueError(f"rate is {rate}; {FPS} must be a multiple of it")
    step, now = FPS // rate, before(moments) - 1
    past = now - step * np.arange(frames - 1, -1, -1)
    if past[0] < 0:
        raise ValueError(f"{frames} frames at {rate} a second begin before the {now + 1} drawn")
    rows = np.arange(len(moments.cells)).repeat(len(horizons) // len(moments.cells))[:, None]
    places = np.concatenate((np.tile(past, (len(rows), 1)), now + horizons[:, None]), axis=1)
    event = moments.event[rows[:, 0]]
    seen = (event % step == 0) & (event >= 0) & (event < frames * step)
    return Contexts(
        moments.cells[rows, places],
        np.diff(places, axis=1) / FPS,
        moments.poses[rows, places],
        moments.asked[rows[:, 0], horizons - 1],
        seen,
    )


def before(moments: Moments) -> int:
    """Frames up to the instant."""
    return moments.cells.shape[1] - moments.asked.shape[1]


def flash_moments(
    count: int,
    before: int,
    after: int,
    grid: int,
    colours: int,
    rng: np.random.Generator,
    wait: int = WAIT,
) -> Moments:
    """Questions about flashes at most `wait` frames before, and the answers in the frame after."""
    drawn = before + 2 * ((FLASHES + 1) * (wait + 1) + 2)  # holds a whole round after `before`
    cells, asked, event = [], [], []
    for _ in range(count):
        video = flash_video(drawn, grid, rng, colours, wait)
        answers = (video.ages > LAST).reshape(drawn, -1)
        answer = before + int(answers[before : drawn - after + 1].any(1).argmax())
        cells.append(video.cells[answer - before : answer + after].reshape(before + after, -1))
        asked.append(answers[answer : answer + after])
        event.append(video.ages[answer].max() - 1)
    stacked = np.stack(cells)
    return Moments(stacked, no_poses(stacked), np.stack(asked), np.array(event))


def bounce_moments(
    count: int, before: int, after: int, grid: int, colours: int, rng: np.random.Generator
) -> Moments:
    """A cell at SPEED along each axis; asked are all cells: where it is, and where it is not."""
    speed = rng.uniform(*SPEED, (count, 1, 2)) * rng.choice((-1, 1), (count, 1, 2)) / FPS
    way = rng.uniform(0, 2 * (grid - 1), (count, 1, 2)) + speed * np.arange(before + after)[:, None]
    there = (grid - 1) - np.abs(way % (2 * (grid - 1)) - (grid - 1))
    place = np.rint(there).astype(int) @ (grid, 1)
    cells = np.tile(still_video(before + after, grid).cells.reshape(-1, grid**2), (count, 1, 1))
    ball = GREYS + rng.integers(colours, size=(count, 1, 1))
    np.put_along_axis(cells, place[..., None], ball, axis=2)
    return Moments(cells, no_poses(cells), all_asked(cells[:, before:]), np.full(count, -1))


def pan_moments(
    count: int, before: int, after: int, grid: int, colours: int, rng: np.random.Generator
) -> Moments:
    """A window of G cells over a torus; asked are cells that it did not show at the instant."""
    moves = (np.arange(before + after) + rng.integers(PAUSE, size=(count, 1))) // PAUSE
    seed = tuple(rng.integers(1 << 31, size=2))
    pan = pan_worlds(count, int(moves.max()) + 1, TORUS, colours, grid, seed)
    rows = np.arange(count)[:, None]
    poses = pan.poses[rows, moves]
    shown = cells_in_view(poses[:, before - 1 :], TORUS, grid)
    asked = (shown[:, 1:, :, None] != shown[:, :1, None, :]).all(-1)
    return Moments(GREYS + pan.tokens[rows, moves], poses, asked, np.full(count, -1))


def static_moments(
    count: int, before: int, after: int, grid: int, colours: int, rng: np.random.Generator
) -> Moments:
    """Pictures that do not change; asked are all cells."""
    picture = GREYS + rng.integers(colours, size=(count, 1, grid**2))
    cells = picture.repeat(before + after, axis=1)
    return Moments(cells, no_poses(cells), all_asked(cells[:, before:]), np.full(count, -1))


def all_asked(cells: np.ndarray) -> np.ndarray:
    return np.ones(cells.shape, bool)


def no_poses(cells: np.ndarray) -> np.ndarray:
    """The poses of a camera that does not move."""
    return np.zeros((*cells.shape[:2], 2), int)


MOMENTS = {
    "flash": MomentWorld(flash_moments, (1,)),
    "bounce": MomentWorld(bounce_moments, (1, 3, 10), single=True),
    "pan": MomentWorld(pan_moments, (3, 15, 30)),
    "static": MomentWorld(static_moments, (1, 3, 10, 30)),
}
