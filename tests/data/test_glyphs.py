"""Laws of the glyphs world: the same arguments draw the same frames; glyphs keep their speed."""

import numpy as np
import pytest

from tttvideo.data.video.drawn.glyphs import (
    RADIUS,
    SHAPES,
    SPEED,
    Glyph,
    background,
    bouncing_glyphs,
    draw,
    random_glyphs,
)


def cast(seed: int, size: int = 64, count: int = 5) -> list[Glyph]:
    return random_glyphs(count, size, np.random.default_rng(seed))


def path(glyph: Glyph, frames: int, size: int) -> np.ndarray:
    return np.array([glyph.centre(frame, size) for frame in range(frames)])


def test_frames_are_uint8_squares_of_the_given_number():
    frames = list(bouncing_glyphs(7, size=40, glyphs=2))
    assert len(frames) == 7
    assert {(frame.shape, frame.dtype.name) for frame in frames} == {((40, 40, 3), "uint8")}


def test_the_same_arguments_draw_the_same_frames_and_another_seed_draws_others():
    first, again = (np.stack(list(bouncing_glyphs(5, seed=3))) for _ in range(2))
    other = np.stack(list(bouncing_glyphs(5, seed=4)))
    assert (first == again).all()
    assert (first != other).any()


def test_more_frames_continue_the_same_video():
    short, long = (list(bouncing_glyphs(frames, seed=1)) for frames in (4, 9))
    assert all((a == b).all() for a, b in zip(short, long, strict=False))


@pytest.mark.parametrize("size", [24, 64, 101])
def test_glyphs_stay_inside_the_walls_and_reach_them(size):
    for glyph in cast(seed=0, size=size):
        places = path(glyph, 2000, size)
        low, high = glyph.radius - 0.5, size - 0.5 - glyph.radius
        assert places.min() >= low - 1e-9 and places.max() <= high + 1e-9
        assert (places.min(axis=0) < low + SPEED[1]).all()
        assert (places.max(axis=0) > high - SPEED[1]).all()


def test_speed_is_constant_between_bounces():
    for glyph in cast(seed=2):
        steps = np.abs(np.diff(path(glyph, 500, 64), axis=0))
        straight = np.isclose(steps, np.abs(glyph.velocity))
        assert straight.mean() > 0.9
        assert (steps <= np.abs(glyph.velocity) + 1e-9).all()
        assert (SPEED[0] <= np.abs(glyph.velocity)).all()
        assert (np.abs(glyph.velocity) <= SPEED[1]).all()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
@pytest.mark.parametrize("radius", RADIUS)
def test_a_glyph_fits_its_circle_of_walls_and_its_edges_are_soft(shape, radius):
    white = np.full(3, 255, np.float32)
    glyph = Glyph(shape, white, radius, start=np.array((12.3, 20.6)), velocity=np.zeros(2))
    bright = draw([glyph], 0, 64)[..., 0].astype(int) - draw([], 0, 64)[..., 0]
    rows, columns = np.nonzero(bright)
    x, y = glyph.centre(0, 64)
    assert np.abs(rows - y).max() <= radius + 1 and np.abs(columns - x).max() <= radius + 1
    assert np.ptp(rows) >= 1.6 * radius and np.ptp(columns) >= 1.6 * radius
    assert ((bright > 20) & (bright < 200)).any()
    assert (bright > 220).any()


def test_later_glyphs_cover_earlier_ones():
    start, still = np.array((20.0, 20.0)), np.zeros(2)
    red, blue = (
        Glyph(SHAPES[0], c, 8.0, start, still) for c in np.eye(3, dtype="f4")[[0, 2]] * 255
    )
    centre = int(red.centre(0, 64)[0])
    assert draw([red, blue], 0, 64)[centre, centre].tolist() == [0, 0, 255]


def test_no_glyphs_leave_the_background():
    (frame,) = bouncing_glyphs(1, glyphs=0)
    assert frame.max() < 64
    assert frame.mean() == pytest.approx(background(64).mean(), abs=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": -1}, "frames is -1"),
        ({"frames": 1, "glyphs": -2}, "glyphs -2"),
        ({"frames": 1, "size": 23}, "size is 23; it must be at least 24"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_before_the_first_frame(arguments, message):
    with pytest.raises(ValueError, match=message):
        bouncing_glyphs(**arguments)
