"""Laws of clips of pixels."""

import numpy as np
import pytest
import torch

from tttvideo.data.modules import ClipData
from tttvideo.data.video.writer import write_video


SIZE = 16
LENGTHS = 9, 3, 7  # frames of the videos


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder of lossless videos whose frames are grey by their numbers."""
    folder, number = tmp_path_factory.mktemp("videos"), 0
    for name, length in zip("abc", LENGTHS, strict=True):
        frames = [np.full((SIZE, SIZE, 3), number + n, np.uint8) for n in range(length)]
        write_video(folder / f"{name}.mp4", frames, 10, lossless=True)
        number += length
    return [str(folder)]


def data(videos, **changes):
    settings = {"validation": videos, "size": SIZE, "frames": 4, "batch_size": 2}
    module = ClipData(videos, **settings | changes)
    module.setup("fit")
    return module


def greys(clip):
    return clip.frames[..., 0, 0, 0].tolist()


def test_clips_are_inside_one_video_and_have_its_true_pixels(videos):
    clips = data(videos).val_dataloader().dataset
    assert [greys(clip) for clip in clips] == [
        [0, 1, 2, 3],
        [3, 4, 5, 6],
        [12, 13, 14, 15],
        [15, 16, 17, 18],
    ]
    assert clips[0].frames.shape == (4, SIZE, SIZE, 3) and clips[0].frames.dtype == torch.uint8


def test_clips_of_a_longer_video_move_from_epoch_to_epoch(videos):
    loader = data(videos).train_dataloader()
    epochs = [[tuple(greys(clip)) for batch in loader for clip in split(batch)] for _ in range(12)]
    assert all(len(epoch) == 4 for epoch in epochs)
    assert {clip[0] for epoch in epochs for clip in epoch} == {0, 1, 2, 3, 4, 5, 12, 15}
    assert len(set(map(tuple, epochs))) > 6


def split(batch):
    return [type(batch)(frames) for frames in batch.frames]


def test_clips_resume_at_the_next_batch(videos):
    whole = [batch.frames for loader in [data(videos).train_dataloader()] for batch in loader]
    before, after = (data(videos).train_dataloader() for _ in range(2))
    next(iter(before))
    after.load_state_dict(before.state_dict())
    assert torch.equal(next(iter(after)).frames, whole[1])


def test_whole_videos_are_held_out_without_validation(videos):
    module = data(videos, validation=None, holdout=0.4)
    clips = [greys(clip) for clip in module.held]
    assert clips == [[12, 13, 14, 15], [15, 16, 17, 18]]
    assert len(module.clips) == 2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"memory": 1e-6}, "the 38 frames of 16 x 16 pixels take 2.9e-05 GB, and data.memory is"),
        ({"frames": 10}, "no video has the 10 frames that a window of 9 frames reads and predicts"),
        ({"frames": 1}, "data.frames is 1; it must be 2 or more"),
        ({"batch_size": 0}, "data.batch_size is 0; it must be 1 or more"),
    ],
)
def test_what_cannot_serve_is_refused(videos, changes, message):
    with pytest.raises(ValueError, match=message):
        data(videos, **changes)
