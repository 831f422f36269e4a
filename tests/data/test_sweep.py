"""Laws of the swept worlds: each cell is shown once, then views ask for what was shown."""

import numpy as np
import pytest

from tttvideo.data.video.drawn.cells import NEVER
from tttvideo.data.video.drawn.sweep import swept_worlds


SWEPT = swept_worlds(worlds=9, size=6, asked=7, colours=5, view=2, room=10, seed=1)


def cells(poses):
    """Cells (F, 4) of the torus that views at poses (F, 2) show."""
    rows, columns = ((poses[:, axis, None] + np.arange(2)) % 10 for axis in (0, 1))
    return (10 * rows[:, :, None] + columns[:, None]).reshape(-1, 4)


def test_a_sweep_shows_every_cell_once_and_the_views_after_it_no_other():
    for poses, ages in zip(SWEPT.poses, SWEPT.ages, strict=True):
        shown = cells(poses)
        assert len(np.unique(shown[:9])) == 36 and (ages[:9] == NEVER).all()
        assert set(shown[9:].flat) <= set(shown[:9].flat) and (ages[9:] >= 1).all()


def test_a_cell_has_one_colour_and_the_age_of_its_last_sight():
    for tokens, poses, ages in zip(SWEPT.tokens, SWEPT.poses, SWEPT.ages, strict=True):
        colour, last = {}, {}
        for frame, shown in enumerate(cells(poses)):
            for place, cell in enumerate(shown):
                assert colour.setdefault(cell, tokens[frame, place]) == tokens[frame, place]
                assert ages[frame, place] == frame - last.get(cell, frame - NEVER)
                last[cell] = frame


def test_a_sweep_goes_from_view_to_the_view_beside_it_in_all_directions():
    moves = np.diff(SWEPT.poses[:, :9], axis=1)
    moves = (moves + 5) % 10 - 5  # on the torus
    assert (np.abs(moves).sum(-1) == 2).all()
    assert len(np.unique(SWEPT.poses[:, 1] - SWEPT.poses[:, 0], axis=0)) >= 4


def test_the_same_seed_draws_the_same_worlds():
    again = swept_worlds(worlds=9, size=6, asked=7, colours=5, view=2, room=10, seed=1)
    other = swept_worlds(worlds=9, size=6, asked=7, colours=5, view=2, room=10, seed=2)
    assert all(map(np.array_equal, SWEPT, again))
    assert not np.array_equal(SWEPT.tokens, other.tokens)


@pytest.mark.parametrize("size", [2, 5, 12])
def test_a_world_that_views_do_not_fill_is_refused(size):
    with pytest.raises(ValueError, match=f"size {size} a multiple of the view above it, at most 1"):
        swept_worlds(1, size, asked=1, room=10)
