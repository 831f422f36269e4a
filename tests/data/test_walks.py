"""Walks through mazes at 30 frames a second, moments of them, and what was seen before."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.walks import HEADER, write_walks
from tttvideo.data.video.walks import AWAY, Walks, read_both, read_walks, seen_before, walk_moments


def test_frames_of_a_walk_are_the_nearest_of_35_a_second_up_to_the_end_of_the_shortest(tmp_path):
    written = write_walks(tmp_path / "a.bin", (45, 36, 40))
    walks = read_walks(str(tmp_path / "a.bin"), least=31)
    assert walks.tokens.shape == (3, 31, 16) and walks.poses.shape == (3, 31, 3)
    for number, (tokens, poses) in enumerate(written):
        for frame, tic in ((0, 0), (1, 1), (3, 4), (15, 18), (30, 35)):
            np.testing.assert_array_equal(walks.tokens[number, frame], tokens[tic])
            np.testing.assert_array_equal(walks.poses[number, frame], poses[tic])


def test_moments_are_cut_out_of_walks():
    tokens = np.arange(2 * 20 * 4).reshape(2, 20, 4)
    poses = tokens[..., :3] / 7
    found = walk_moments(300, 8, 3, Walks(tokens, poses, HEADER), np.random.default_rng(0))
    flat = tokens.reshape(40, 4)
    starts = found.cells[:, 0, 0] // 4
    assert set(starts) == {*range(10), *range(20, 30)} and found.asked.all()
    for start, cells, there in zip(starts, found.cells, found.poses, strict=True):
        np.testing.assert_array_equal(cells, flat[start : start + 11])
        np.testing.assert_array_equal(there, poses.reshape(40, 3)[start : start + 11])


@pytest.mark.parametrize(
    "frame, pose, sight",
    [
        (3, (1.1, 1, 0), 1),
        (3, (1.2, 1, 0), -1),
        (3, (1, 0.9, 354.375), -1),
        (3, (1, 1, 360), 1),
        (4 + AWAY, (1, 1, 0), 0),
    ],
)
def test_a_target_is_seen_again_if_the_walk_was_there_a_second_before(frame, pose, sight):
    poses = np.full((1, 5 + AWAY, 3), 9.0)
    poses[0, frame] = pose
    assert seen_before(poses, np.array([[1.0, 1.0, 0.0]])) == sight


def test_tokens_that_are_no_walks_or_too_short_or_do_not_belong_together_are_refused(tmp_path):
    a, b, c = (str(tmp_path / name) for name in ("a.bin", "b.bin", "c.bin"))
    write_walks(a, (36, 45))
    write_walks(b, (36,), header=replace(HEADER, conditions=()))
    write_walks(c, (36,), header=replace(HEADER, tokenizer="another"))
    with pytest.raises(ValueError, match=r"has 1.0 s, and 2.0 s are read; prepare mazes of 77 fr"):
        read_walks(a, 60)
    with pytest.raises(ValueError, match="b.bin holds no walks: videos of one rate with poses"):
        read_walks(b, 1)
    with pytest.raises(ValueError, match="a.bin and .*c.bin do not belong together: tokenizer"):
        read_both(a, c, 1)
