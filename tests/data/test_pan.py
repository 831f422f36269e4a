"""Laws of the pan world: what a window shows follows from the world, the walk and the pose."""

import numpy as np
import pytest

from tttvideo.data.video.drawn.cells import NEVER
from tttvideo.data.video.drawn.pan import STEPS, pan_worlds


PAN = pan_worlds(worlds=5, frames=40, size=6, colours=4, view=3, seed=1)


def test_actions_lead_from_each_pose_to_the_next():
    moved = (PAN.poses[:, :-1] + STEPS[PAN.actions[:, :-1]]) % 6
    assert np.array_equal(moved, PAN.poses[:, 1:])
    assert set(np.unique(PAN.actions)) == {0, 1, 2, 3}


def test_a_cell_has_the_same_colour_whenever_it_is_seen_and_its_age_since_then():
    for tokens, poses, ages in zip(PAN.tokens, PAN.poses, PAN.ages, strict=True):
        colour, last = {}, {}
        for frame, (row, column) in enumerate(poses):
            for place, token in enumerate(tokens[frame]):
                cell = (row + place // 3) % 6, (column + place % 3) % 6
                assert colour.setdefault(cell, token) == token
                assert ages[frame, place] == frame - last.get(cell, frame - NEVER)
                last[cell] = frame


def test_the_same_seed_draws_the_same_worlds_and_worlds_differ():
    again = pan_worlds(worlds=5, frames=40, size=6, colours=4, view=3, seed=1)
    assert all(map(np.array_equal, PAN, again))
    other = pan_worlds(worlds=5, frames=40, size=6, colours=4, view=3, seed=2)
    assert not np.array_equal(PAN.tokens, other.tokens)
    assert len(np.unique(PAN.tokens.reshape(5, -1), axis=0)) == 5


def test_given_actions_are_walked():
    there_and_back = np.array([[0, 0, 2, 2, 1]])
    pan = pan_worlds(1, 5, size=9, view=2, actions=there_and_back)
    assert np.array_equal(pan.tokens[0, 0], pan.tokens[0, 4])
    assert np.ptp(pan.poses[0, :, 0]) == 0
    assert pan.ages[0, 4].tolist() == [4, 1, 4, 1]


def test_a_window_larger_than_the_world_is_refused():
    with pytest.raises(ValueError, match="view 5 must be 1 or more, and view at most the size 4"):
        pan_worlds(1, 1, size=4, view=5)
