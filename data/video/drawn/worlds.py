"""The drawn worlds by name, and one way to draw a video of each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .cells import PATCH, WHITE, CellVideo, paint, still_video
from .code import code_video
from .flash import flash_video
from .glyphs import bouncing_glyphs, no_glyphs
from .pan import pan_worlds, torus_picture, views


GREYS = WHITE + 1
Seed = int | tuple[int, ...]


class DrawnVideo(NamedTuple):
    """Frames with what is known of them."""

    frames: Iterator[np.ndarray]
    """(size, size, 3) uint8 each"""
    conditions: dict[str, np.ndarray]
    """by the names in data/tokens.py, a row per frame; ages are the truth to score memory by"""


@dataclass(frozen=True)
class World:
    """A kind of drawn videos."""

    draw: Callable[..., DrawnVideo]
    """of frames, size in pixels, seed, palette (colours, 3), and its options but for colours"""
    options: dict[str, int]
    """with their defaults; with `colours` every 8 x 8 patch has a colour of a palette"""
    least: int
    """the least size, pixels"""
    size: int = 64
    fps: float = 30
    greys: int = 0
    """of the palette, before its colours"""
    empty: Callable[[int], np.ndarray] | None = None
    """(size, size, 3) uint8 without any object, of a size in pixels, in worlds of objects"""


def draw_glyphs(
    frames: int, size: int, seed: Seed, palette: np.ndarray | None, glyphs: int
) -> DrawnVideo:
    return DrawnVideo(bouncing_glyphs(frames, size, glyphs, seed), {})


def draw_pan(
    frames: int,
    size: int,
    seed: Seed,
    palette: np.ndarray,
    cells: int,
    texture: bool,
) -> DrawnVideo:
    """A window of size / 8 cells moves over a torus of `cells` x `cells`, of colours or texture."""
    view = size // PATCH
    pan = pan_worlds(1, frames, cells, len(palette), view, seed)
    known = {name: getattr(pan, name)[0] for name in ("actions", "poses", "ages")}
    if texture:
        picture = torus_picture(cells, np.random.default_rng(seed))
        return DrawnVideo(views(picture, pan.poses[0], view), known)
    return DrawnVideo(paint(pan.tokens[0].reshape(frames, view, view), palette), known)


def draw_cells(make: Callable[..., CellVideo]) -> Callable[..., DrawnVideo]:
    """A world's `draw` by the function that makes its cells."""

    def draw(frames: int, size: int, seed: Seed, palette: np.ndarray, **options: Any) -> DrawnVideo:
        rng, colours = np.random.default_rng(seed), len(palette) - GREYS
        cells, ages = make(frames, size // PATCH, rng, colours, **options)
        return DrawnVideo(paint(cells, palette), {"ages": ages.reshape(frames, -1)})

    return draw


def static_video(frames: int, grid: int, rng: np.random.Generator, colours: int) -> CellVideo:
    """One picture of random cells, in every frame."""
    video = still_video(frames, grid)
    video.cells[:] = GREYS + rng.integers(colours, size=(grid, grid))
    return video


WORLDS = {
    "glyphs": World(draw_glyphs, {"glyphs": 2}, least=24, empty=no_glyphs),
    "pan": World(draw_pan, {"colours": 8, "cells": 6, "texture": False}, PATCH, size=32, fps=10),
    "flash": World(draw_cells(flash_video), {"colours": 8, "wait": 32}, 4 * PATCH, greys=GREYS),
    "code": World(
        draw_cells(code_video),
        {"colours": 8, "symbols": 4, "distractors": 16},
        least=8 * PATCH,
        fps=5,
        greys=GREYS,
    ),
    "static": World(draw_cells(static_video), {"colours": 8}, PATCH, greys=GREYS),
}
