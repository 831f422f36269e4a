"""Laws of views: which pixels they show, and that a seed draws the same ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tttvideo.data.order import Frames, ResumableLoader
from tttvideo.data.video.drawn import bouncing_glyphs
from tttvideo.data.video.views import LEAST, RandomViews, View, copies, larger, random_view
from tttvideo.data.video.writer import write_video


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


def test_half_of_the_frames_of_an_epoch_are_views_drawn_from_the_seed_and_resume():
    plain = FRAMES[:, :64, :64]

    def loader(seed=0):
        return ResumableLoader(Frames(plain, RandomViews(FRAMES, 64, seed)), 1, seed)

    def deliver(loader, count):
        return [batch for _ in range(40) for batch in loader][:count]

    first, again, other = deliver(loader(), 120), deliver(loader(), 120), deliver(loader(1), 120)
    assert all(map(torch.equal, first, again))
    kinds = {batch.numpy().tobytes() for batch in (*first, *other)}
    assert 100 < len(kinds) < 140
    resumed = loader()
    resumed.load_state_dict(loader().state_dict() | {"epoch": 1, "delivered": 2})
    assert all(map(torch.equal, deliver(resumed, 4), first[5:]))
    with pytest.raises(ValueError, match="with other data: views was True and is False"):
        ResumableLoader(Frames(plain), 1).load_state_dict(loader().state_dict())


@pytest.mark.parametrize("stride", [1, 2])
def test_a_copy_shows_its_view_of_every_frame_of_a_time_span(tmp_path, stride):
    write_video(tmp_path / "a.mp4", bouncing_glyphs(20, size=80), 10, lossless=True)
    plain, *others = copies([tmp_path / "a.mp4"], 3, seed=1)
    assert len(others) == 3 and plain.view is None and plain.stride == 1
    (images,) = replace(others[0], view=PLAIN, stride=stride).images(64, 0.45, 1.45)
    frames = torch.from_numpy(np.stack(list(bouncing_glyphs(20, size=80))[5:15:stride]))
    assert np.array_equal(images, PLAIN.of(frames, 64).numpy())
    (images,) = plain.images(80, 1.75, np.inf)
    assert len(images) == 2
