"""Laws of the estimated camera: a known pan is found; a still camera stays where it is."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from tttvideo.data.video.camera import CameraPose
from tttvideo.data.video.drawn import bouncing_glyphs


SIZE = 64


def scene(blur, seed=0):
    noise = np.random.default_rng(seed).standard_normal((200, 200))
    smooth = gaussian_filter(noise, blur, mode="wrap")
    return (smooth - smooth.min()) / np.ptp(smooth) * 255


def seen_from(scene, place):
    rows, columns = (start + np.arange(SIZE) for start in place)
    grey = map_coordinates(scene, np.meshgrid(rows, columns, indexing="ij"), order=3, mode="wrap")
    return grey.round().astype(np.uint8)[..., None].repeat(3, 2)


@pytest.mark.parametrize("velocity", [(1, 0), (-2.3, 0.7), (0.4, -1.6), (6, 5)], ids=str)
@pytest.mark.parametrize("blur", [2, 4])
def test_a_pan_is_found_within_a_twentieth_of_a_pixel_a_frame(blur, velocity):
    world, pose = scene(blur), CameraPose()
    for frame in range(20):
        way = frame * np.array(velocity)
        found = pose(seen_from(world, 90 + way))
        assert np.abs(found - way).max() <= 0.05 * frame


@pytest.mark.parametrize("step", [(31, 0), (0, -31), (20, 20)], ids=str)
def test_a_jump_of_almost_half_a_frame_is_found(step):
    world, pose = scene(2), CameraPose()
    assert np.array_equal(pose(seen_from(world, (90, 90))), [0, 0])
    assert np.abs(pose(seen_from(world, (90, 90) + np.array(step))) - step).max() <= 0.05


def test_things_that_move_do_not_move_the_camera():
    world, pose = scene(2).astype(np.float32), CameraPose()
    for frame in bouncing_glyphs(40, SIZE, glyphs=2):
        bright = frame.max(2, keepdims=True) > 100
        still = seen_from(world, (50, 50)) // 3
        assert np.array_equal(pose(np.where(bright, frame, still)), [0, 0])
    assert np.array_equal(pose(still), [0, 0]) and np.array_equal(pose(still), [0, 0])
