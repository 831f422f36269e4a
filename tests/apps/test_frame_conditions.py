"""Laws of what `predict` tells a model: times are the video's, a class is in the file beside it."""

from argparse import Namespace

import numpy as np
import pytest

from helpers.models import small, small_frames
from tttvideo.apps.frame_conditions import frame_conditions
from tttvideo.data.video.sources import VideoSource
from tttvideo.video.conditions import Conditions, ConditionsConfig


TIMES, FPS = np.array([0, 0.25, 0.75]), 4.0
IMAGES = np.zeros((2, 8, 8, 3), np.uint8)


def found(model, folder, counts=(2, 3), source="clip.mp4", number=None):
    options, video = Namespace(checkpoint="x", actions=None, poses=None), folder / source
    return frame_conditions(model, options, VideoSource(video, number), None, (TIMES, FPS), counts)


def test_seconds_are_those_between_the_frames_and_the_rate_beyond_the_last(tmp_path):
    conditions = found(small_frames(conditions=ConditionsConfig(seconds=True)), tmp_path)
    assert conditions.read(IMAGES).seconds.tolist() == [[0.25, 0.5]]
    assert conditions.ahead(3, 2).seconds.tolist() == [[0.25] * 3] * 2


def test_one_class_beside_the_video_is_that_of_every_frame(tmp_path):
    model = small_frames(conditions=ConditionsConfig(classes=3))
    with pytest.raises(ValueError, match="reads classes: put clip.classes.npy beside"):
        found(model, tmp_path)
    np.save(tmp_path / "clip.classes.npy", 2)
    conditions = found(model, tmp_path)
    assert conditions.read(IMAGES).classes.tolist() == [2]
    assert conditions.ahead(3, 4).classes.tolist() == [2] * 4


def test_files_that_a_model_does_not_read_are_not_opened(tmp_path):
    (tmp_path / "clip.actions.npy").write_text("no array")
    for model in (small_frames(), small()):
        conditions = found(model, tmp_path)
        assert conditions.read(IMAGES) == Conditions() and conditions.about == {}


def test_the_rows_of_a_video_of_an_array_are_its_own(tmp_path):
    actions = np.array([[0, 1, 2, 0, 1], [2, 2, 1, 0, 0]])
    np.save(tmp_path / "two.actions.npy", actions)
    model = small_frames(conditions=ConditionsConfig(actions=3))
    conditions = found(model, tmp_path, source="two.npy", number=1)
    assert conditions.read(IMAGES).actions.tolist() == [[2, 2]]
