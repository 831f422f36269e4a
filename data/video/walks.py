"""Walks through mazes, and moments of them.

A walk is a video of a token file with the poses of `prepare maze`. It is read at FPS, whatever its
own rate: each frame is the nearest in time, so of Doom's 35 a second every seventh is left out.

W walks, F frames, P tokens per frame, B moments.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from tttvideo.data.tokens import Header, difference, open_tokens
from tttvideo.data.video.drawn.moments import FPS, Moments, all_asked

from .mazes import TURN


NEAR = 1 / 8  # cells on x and on y, between poses that count as one place
AWAY = (
    FPS  # frames before the instant in which a sight does not count: nothing is forgotten so soon
)


class Walks(NamedTuple):
    """W walks of one length."""

    tokens: np.ndarray
    """(W, F, P)"""
    poses: np.ndarray
    """(W, F, 3) x and y in cells, and the angle in degrees"""
    header: Header
    """Facts about the tokens"""


@cache
def read_both(train: str, held_out: str, least: int) -> tuple[Walks, Walks]:
    """Walks for training and to measure with; see `read_walks`.

    Raises: ValueError also for two that differ in what their tokens mean.
    """
    one, other = read_walks(train, least), read_walks(held_out, least)
    if found := difference(one.header, other.header):
        raise ValueError(f"{train} and {held_out} do not belong together: {found}")
    return one, other


def read_walks(path: str, least: int) -> Walks:
    """All walks of a token file or a folder of them, as long as the shortest, at FPS.

    least: the fewest frames F that will do.
    Raises: ValueError for tokens of no videos, without poses of walks or a rate, or too short.
    """
    data = open_tokens(path)
    header, poses = data.header, data.conditions.get("poses")
    if not (header.grid and header.fps and poses is not None and poses[:1].shape[-1] == 3):
        raise ValueError(
            f"{path} holds no walks: videos of one rate with poses x, y and angle; prepare them "
            "with `prepare maze` and `prepare video`"
        )
    starts, step = data.starts // header.frame, header.fps / FPS
    frames = int((np.diff(starts, append=len(poses)).min() - 1) * FPS / header.fps) + 1
    if frames < least:
        raise ValueError(
            f"the shortest walk of {path} has {frames / FPS:.1f} s, and {least / FPS:.1f} s are "
            f"read; prepare mazes of {round(1.1 * least * step)} frames, or set --frames and "
            "--seconds lower"
        )
    places = starts[:, None] + np.rint(np.arange(frames) * step).astype(int)
    tokens = data.tokens[:].reshape(-1, header.frame)
    return Walks(tokens[places].astype(np.int64), np.asarray(poses[:])[places], header)


def walk_moments(
    count: int, before: int, after: int, walks: Walks, rng: np.random.Generator
) -> Moments:
    """Instants of walks, drawn evenly; asked are all tokens."""
    room = walks.tokens.shape[1] - before - after + 1
    rows = rng.integers(len(walks.tokens), size=(count, 1))
    places = rng.integers(room, size=(count, 1)) + np.arange(before + after)
    tokens = walks.tokens[rows, places]
    asked = all_asked(tokens[:, before:])
    return Moments(tokens, walks.poses[rows, places], asked, np.full(count, -1))


def seen_before(poses: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Whether a place and heading (B, 3) is among those (B, F, 3) of a walk's last frames: 1 if it
    was there AWAY or more frames before the last, -1 if it was not at all, else 0.
    """
    apart = np.abs(poses - target[:, None])
    turned = np.minimum(apart[..., 2], 360 - apart[..., 2])
    same = (apart[..., :2] <= NEAR).all(-1) & (turned < TURN / 2)
    return np.where(same[:, :-AWAY].any(1), 1, np.where(same.any(1), 0, -1))
