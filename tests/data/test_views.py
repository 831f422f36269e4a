"""Laws of views: which pixels they show, and that a seed draws the same ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tttvideo.data.video.drawn import bouncing_glyphs
from tttvideo.data.video.reader import Frame
from tttvideo.data.video.views import LEAST, View, copies, larger, random_view, view_of


FRAMES = torch.from_numpy(np.stack(list(bouncing_glyphs(3, size=80))))
PLAIN = View(0.05, 0.1, LEAST, False, 1.0, 1.0, 1.0)


def test_a_view_shows_its_crop_mirrored_or_brighter():
    assert larger(64) == 80
    crop = FRAMES[:, 4:68, 8:72]
    assert torch.equal(PLAIN.of(FRAMES, 64), crop)
    assert torch.equal(replace(PLAIN, flip=True).of(FRAMES, 64), crop.flip(2))
    brighter = replace(PLAIN, brightness=1.25).of(FRAMES, 64)
    torch.testing.assert_close(brighter.float(), (crop * 1.25).clamp(max=255), atol=1, rtol=0)


def test_a_view_of_the_whole_frame_is_the_frame_made_smaller():
    whole = View(0.0, 0.0, 1.0, False, 1.0, 1.0, 1.0).of(FRAMES, 40)
    pooled = FRAMES.float().unflatten(1, (40, 2)).unflatten(3, (40, 2)).mean((2, 4))
    assert (whole - pooled).abs().mean() < 2


def test_all_frames_of_a_clip_have_the_same_view():
    for seed in range(20):
        view = random_view(np.random.default_rng(seed))
        together = view.of(FRAMES, 64)
        assert together.shape == (3, 64, 64, 3) and together.dtype == torch.uint8
        alone = torch.cat([view.of(frame[None], 64) for frame in FRAMES])
        assert torch.equal(together, alone)


def test_half_of_the_frames_of_a_turn_have_a_view_drawn_from_the_seed():
    drawn = [[view_of(seed, 0, number) for number in range(200)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    views = [view for view in drawn[0] if view]
    assert 80 < len(views) < 120 and len(set(views)) == len(views)
    assert drawn[0] != [view_of(0, 1, number) for number in range(200)]


@pytest.mark.parametrize("stride", [1, 2])
def test_a_copy_shows_its_view_of_every_frame(stride):
    plain, *others = copies(0, 3, seed=1)
    assert len(others) == 3 and (plain.view, plain.stride) == (None, 1)
    copy = replace(others[0], view=PLAIN, stride=stride)
    assert (plain.source_size(64), copy.source_size(64)) == (64, 80)
    drawn = list(bouncing_glyphs(10, size=80))
    (images,) = copy.images((Frame(image, 0.0) for image in drawn), 64)
    frames = torch.from_numpy(np.stack(drawn[::stride]))
    assert np.array_equal(images, PLAIN.of(frames, 64).numpy())
    many = plain.images((Frame(image, 0.0) for image in drawn * 7), 80)
    assert [len(images) for images in many] == [64, 6]


def test_copies_of_a_video_depend_on_its_place_and_the_seed_alone():
    assert copies(3, 2, seed=1) == copies(3, 2, seed=1) == copies(3, 5, seed=1)[:3]
    different = [copies(3, 1, seed=1), copies(4, 1, seed=1), copies(3, 1, seed=2)]
    assert len({found[1] for found in different}) == 3
