"""Moments of drawn worlds: every rate is asked for the same frame."""

import numpy as np
import pytest

from tttvideo.data.video.drawn.flash import flash_video
from tttvideo.data.video.drawn.moments import FPS, GREYS, MOMENTS, PAUSE, at_rate, flash_moments


def draw(world, count=5, before=61, after=30, grid=4, colours=8, seed=0, **options):
    rng = np.random.default_rng(seed)
    return MOMENTS[world].draw(count, before, after, grid, colours, rng, **options)


@pytest.mark.parametrize("world", MOMENTS)
def test_contexts_of_all_rates_end_with_the_same_frame_and_have_the_same_target(world):
    moments, horizons = draw(world), np.array([1, 2, 30, 3, 7])
    dense, sparse = (at_rate(moments, *sizes, horizons) for sizes in ((61, 30), (3, 1)))
    for name in ("frames", "poses"):
        long, short = getattr(dense, name), getattr(sparse, name)
        np.testing.assert_array_equal(long[:, [0, 30, 60, 61]], short)
    np.testing.assert_array_equal(dense.asked, sparse.asked)
    np.testing.assert_allclose(sparse.seconds[:, :2], 1)
    np.testing.assert_allclose(dense.seconds[:, -1], horizons / FPS)
    np.testing.assert_allclose(sparse.seconds[:, -1], horizons / FPS)


@pytest.mark.parametrize("world", MOMENTS)
def test_the_same_seed_draws_the_same_moments_and_another_others(world):
    one, same, other = (draw(world, seed=seed).cells for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_the_answer_of_a_flash_is_in_a_context_exactly_where_its_frame_is_seen():
    moments = draw("flash", count=200, after=1, wait=9)
    assert moments.event.min() >= 2 and moments.event.max() == 10
    for rate, frames in ((30, 61), (10, 3), (5, 2), (1, 3)):
        contexts = at_rate(moments, frames, rate, np.ones(200, int))
        answer = contexts.frames[:, -1].max(1)
        last = [row[row.max(1) >= GREYS] for row in contexts.frames[:, :-1]]
        shown = [row[-1].max() if len(row) else 0 for row in last]
        assert ((shown == answer) >= contexts.seen).all()
        if rate == 30:
            assert contexts.seen.all()
        assert contexts.seen.mean() == np.mean(
            (moments.event % (30 // rate) == 0) & (moments.event < frames * 30 // rate)
        )


def test_flash_moments_are_cut_out_of_flash_videos():
    rng, same = np.random.default_rng(3), np.random.default_rng(3)
    moments = flash_moments(1, 20, 1, 4, 8, rng, wait=2)
    video = flash_video(20 + 2 * (4 * 3 + 2), 4, same, 8, 2).cells.reshape(-1, 16)
    assert any((video[n : n + 21] == moments.cells[0]).all() for n in range(len(video) - 20))


def test_flash_asks_for_the_middle_and_static_and_bounce_for_all():
    assert draw("flash", after=1).asked.reshape(-1, 4, 4)[:, 1:3, 1:3].all()
    assert draw("flash", after=1).asked.sum() == 5 * 4
    assert draw("static").asked.all() and draw("bounce").asked.all()


def test_pan_asks_for_cells_that_the_window_did_not_show():
    moments = draw("pan", count=40)
    moved = (moments.poses[:, 61:] != moments.poses[:, 60:61]).any(-1)
    np.testing.assert_array_equal(moments.asked.any(-1), moved)
    steps = (moments.poses[:, 1:] != moments.poses[:, :-1]).any(-1).sum(1)
    assert (np.abs(steps - 90 / PAUSE) <= 1).all()


def test_a_bouncing_cell_moves_at_most_one_cell_a_frame_and_keeps_its_colour():
    cells = draw("bounce", count=40).cells
    assert ((cells > 0).sum(-1) == 1).all() and (cells.max(-1) == cells.max((1, 2))[:, None]).all()
    rows, columns = np.divmod(cells.argmax(-1), 4)
    assert max(np.abs(np.diff(x, axis=1)).max() for x in (rows, columns)) == 1


def test_rates_that_do_not_divide_and_contexts_before_the_first_frame_are_refused():
    moments = draw("static")
    with pytest.raises(ValueError, match="rate is 4; 30 must be a multiple"):
        at_rate(moments, 2, 4, np.ones(5, int))
    with pytest.raises(ValueError, match="4 frames at 1 a second begin before the 61 drawn"):
        at_rate(moments, 4, 1, np.ones(5, int))
