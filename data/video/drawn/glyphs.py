"""The glyphs world: shapes that bounce; one frame does not determine the next.

A glyph is drawn from the signed distance to its outline, in pixels and negative inside.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np


RADIUS = 7.0, 9.0
SPEED = 1.0, 2.5  # pixels per frame on each axis
MARGIN = 12  # pixels around the canvas, so that a glyph's window never leaves it
WINDOW = np.arange(-10.0, 12.0)  # pixel centres around the pixel that holds a glyph's centre
COLOURS = np.array(
    [
        (255, 48, 48),
        (48, 224, 64),
        (72, 112, 255),
        (255, 216, 32),
        (240, 64, 240),
        (32, 224, 240),
        (255, 136, 24),
    ],
    dtype=np.float32,
)


def disc(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.hypot(x, y) - r


def ring(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.75 * r) - 0.25 * r


def cross(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.minimum(box(x, y, r, 0.35 * r), box(x, y, 0.35 * r, r))


def triangle(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    R = 1.15 * r  # of the circle through its corners; the tip is up
    y = y - 0.25 * R
    return np.maximum(y, np.sqrt(0.75) * np.abs(x) - 0.5 * y) - 0.5 * R


def square(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return box(x, y, 0.9 * r, 0.9 * r)


def box(x: np.ndarray, y: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


SHAPES: tuple[Callable[..., np.ndarray], ...] = (disc, ring, cross, triangle, square)


@dataclass(frozen=True)
class Glyph:
    shape: Callable[..., np.ndarray]
    colour: np.ndarray
    """float32 (3,), RGB from 0 to 255"""
    radius: float
    """pixels"""
    start: np.ndarray
    """(x, y) of its centre in frame 0, pixels from the least that keeps it inside the walls"""
    velocity: np.ndarray
    """pixels per frame before the first bounce"""

    def centre(self, frame: int, size: int) -> tuple[float, float]:
        """The centre (x, y) in a frame: on a straight line that the walls reflect."""
        room = size - 2 * self.radius
        way = (self.start + frame * self.velocity) % (2 * room)
        x, y = room - np.abs(way - room) + self.radius - 0.5
        return x, y


def bouncing_glyphs(
    frames: int, size: int = 64, glyphs: int = 3, seed: int | tuple[int, ...] = 0
) -> Iterator[np.ndarray]:
    """Coloured glyphs that cross a dark background at constant speed and bounce off its walls.

    Later glyphs cover earlier ones. The same arguments draw the same frames; more `frames` continue
    the same video.

    Arguments:
        frames: the number of frames.
        size: height and width, in pixels; at least 24.
        glyphs: the number of glyphs; from the eighth on colours repeat.
        seed: chooses shapes, colours, sizes, places and velocities.
    Returns: an iterator over frames, uint8 (size, size, 3).
    """
    if frames < 0 or glyphs < 0:
        raise ValueError(f"frames is {frames} and glyphs {glyphs}; neither may be negative")
    if size < 24:
        raise ValueError(f"size is {size}; it must be at least 24, or glyphs have no room to move")
    scene = random_glyphs(glyphs, size, np.random.default_rng(seed))
    return (draw(scene, frame, size) for frame in range(frames))


def no_glyphs(size: int) -> np.ndarray:
    """The background alone, uint8 (size, size, 3)."""
    return draw([], 0, size)


def random_glyphs(count: int, size: int, rng: np.random.Generator) -> list[Glyph]:
    shapes, colours = rng.permutation(len(SHAPES)), rng.permutation(len(COLOURS))
    scene = []
    for n in range(count):
        radius = rng.uniform(*RADIUS)
        start = rng.uniform(0, size - 2 * radius, 2)
        velocity = rng.uniform(*SPEED, 2) * rng.choice((-1, 1), 2)
        shape, colour = SHAPES[shapes[n % len(shapes)]], COLOURS[colours[n % len(colours)]]
        scene.append(Glyph(shape, colour, radius, start, velocity))
    return scene


def draw(scene: list[Glyph], frame: int, size: int) -> np.ndarray:
    canvas = background(size).copy()
    for glyph in scene:
        x, y = glyph.centre(frame, size)
        cover = coverage(glyph.shape, x, y, glyph.radius)
        top, left = (int(MARGIN + round(place) + WINDOW[0]) for place in (y, x))
        window = canvas[top : top + len(WINDOW), left : left + len(WINDOW)]
        window += cover * (glyph.colour - window)
    return (canvas[MARGIN:-MARGIN, MARGIN:-MARGIN] + 0.5).astype(np.uint8)


def coverage(shape: Callable[..., np.ndarray], x: float, y: float, r: float) -> np.ndarray:
    """How much of each pixel a shape covers, (22, 22, 1), in the WINDOW around its centre."""
    distance = shape(WINDOW + (round(x) - x), (WINDOW + (round(y) - y))[:, None], r)
    return np.clip(0.5 - distance, 0, 1).astype(np.float32)[..., None]  # one soft pixel


@cache
def background(size: int) -> np.ndarray:
    """float32 (size, size, 3) plus its margin: dark, a little brighter to the lower right."""
    along = np.arange(-MARGIN, size + MARGIN, dtype=np.float32) / size
    slope = (along + along[:, None])[..., None] / 2
    return np.array((14, 16, 26), np.float32) + slope * np.array((14, 18, 22), np.float32)
