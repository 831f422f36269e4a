"""Laws of the videos that are measured: any cut gives the same frames and conditions, in order."""

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.models import small_frames
from tttvideo.data.video.conditions import write_conditions
from tttvideo.data.video.writer import write_video
from tttvideo.measures.video_data import batches, conditions_of, encode, open_videos, stamps
from tttvideo.sampling.frame_streams import score_frames
from tttvideo.video.address import AddressConfig
from tttvideo.video.conditions import ConditionsConfig
from tttvideo.video.frame_tokenizer import FrameTokenizer, FrameTokenizerConfig


LENGTHS = {"a": 19, "b": 21, "c": 19}
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Videos of noise, with actions, poses and ages."""
    folder = tmp_path_factory.mktemp("videos")
    for name, frames in LENGTHS.items():
        path = folder / f"{name}.mp4"
        write_video(path, RANDOM.integers(256, size=(frames, 16, 24, 3), dtype=np.uint8), 10, True)
        write_conditions(
            path,
            actions=RANDOM.integers(4, size=frames),
            poses=RANDOM.normal(size=(frames, 2)).astype(np.float32),
            ages=RANDOM.integers(-1, 9, size=(frames, 6)),
        )
    return folder


def steered(**changes):
    return small_frames(conditions=ConditionsConfig(actions=4), **changes)


def test_videos_of_equal_length_are_read_side_by_side(folder):
    found = list(batches(open_videos(folder, 16), at_once=4))
    names = [[Path(video.source.name).stem for video in batch.videos] for batch in found]
    assert names == [["a", "c"], ["b"]]
    assert [batch.frames for batch in found] == [19, 21]
    first = open_videos(folder, 16, frames=20)
    assert [Path(video.source.name).stem for video in first] == ["b"]
    assert len(open_videos(folder, 16, most=2)) == 2


def test_any_cut_gives_the_same_images_conditions_and_ages(folder):
    address = AddressConfig(poses="shift", as_input=True)
    model = steered(address=address)
    (whole,) = batches(open_videos(folder, 16, frames=17), model, ages=True)
    (cut,) = batches(open_videos(folder, 16, frames=17), model, ages=True)
    one, parts = whole.read(17), [cut.read(n) for n in (3, 1, 9, 4)]
    assert [part.begin for part in parts] == [0, 3, 4, 13] and one.images.shape[:2] == (3, 17)
    assert torch.equal(torch.cat([part.images for part in parts], 1), one.images)
    assert torch.equal(torch.cat([part.ages for part in parts], 1), one.ages)
    assert torch.equal(
        torch.cat([part.conditions.actions for part in parts], 1), one.conditions.actions
    )
    poses = torch.cat([part.conditions.poses[:, :-1] for part in parts], 1)
    assert torch.equal(poses, one.conditions.poses[:, :-1])
    assert torch.equal(parts[0].conditions.poses[:, -1], one.conditions.poses[:, 3])


def test_what_is_known_ahead_is_what_is_read_later(folder):
    (batch,) = batches(open_videos(folder, 16, frames=17), steered())
    batch.read(5)
    assert torch.equal(batch.ahead(12).actions, batch.read(12).conditions.actions)


def test_estimated_poses_are_read_frame_by_frame_and_know_no_later_frame(folder, tmp_path):
    """The pose of the frame after a piece is a guess from the frames up to it."""
    path = tmp_path / "bare.mp4"
    write_video(path, np.zeros((6, 16, 16, 3), np.uint8), 10)
    (batch,) = batches(open_videos(path, 16), small_frames())
    assert [piece.images.shape[1] for piece in batch.pieces()] == [6]
    model = small_frames(address=AddressConfig(poses="shift", as_input=True))
    (batch,) = batches(open_videos(path, 16), model)
    assert [piece.conditions.poses.shape[1] for piece in batch.pieces()] == [2] * 6


def test_tokens_of_a_batch_are_those_of_each_video(folder):
    codec = FrameTokenizer(FrameTokenizerConfig(size=16, width=8, hidden=8)).eval()
    (batch,) = batches(open_videos(folder, 16, frames=4))
    images = batch.read(4).images
    tokens = encode(codec, images)
    assert tokens.shape == (3, 4, 4)
    assert all(torch.equal(codec.encode(one), its) for one, its in zip(images, tokens, strict=True))


def test_a_model_scores_pieces_as_it_scores_the_whole(folder):
    model, tokens = steered(), torch.from_numpy(RANDOM.integers(7, size=(2, 19, 6)))
    (whole, _), (pieces, _) = (list(batches(open_videos(folder, 16), model)) for _ in range(2))
    expected, _ = score_frames(model, tokens, None, whole.read(19).conditions)
    prefix, bits = None, []
    for piece in pieces.pieces():
        part = tokens[:, piece.begin : piece.begin + piece.images.shape[1]]
        found, prefix = score_frames(model, part, prefix, piece.conditions)
        bits.append(found)
    torch.testing.assert_close(torch.cat(bits, 1), expected)


def test_videos_without_what_the_model_reads_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="no video of 30 frames or more; the longest has 21"):
        open_videos(folder, 16, frames=30)
    for name in "ab":
        write_video(tmp_path / f"{name}.mp4", np.zeros((3, 16, 16, 3), np.uint8), 10)
    videos = open_videos(tmp_path, 16)
    with pytest.raises(ValueError, match="reads actions: put a.actions.npy beside .*each of 3 fra"):
        conditions_of(videos, steered())
    write_conditions(tmp_path / "a.mp4", actions=np.zeros(3, int))
    optional = small_frames(conditions=ConditionsConfig(actions=4, dropout=0.1))
    with pytest.raises(ValueError, match="has actions, and the other has not"):
        conditions_of(videos, optional)
    with pytest.raises(ValueError, match="has no ages; put a.ages.npy beside it"):
        list(batches(videos, ages=True))


def test_stamps_tell_a_video_or_its_conditions_that_were_written_again(tmp_path):
    path = tmp_path / "a.mp4"

    def write(frames):
        write_video(path, RANDOM.integers(256, size=(frames, 16, 16, 3), dtype=np.uint8), 10, True)

    def measured():
        return stamps(open_videos(tmp_path, 16, frames=4))

    write(5)
    write_conditions(path, actions=np.zeros(5, int))
    first = measured()
    assert measured() == first
    write_conditions(path, actions=np.zeros(6, int))
    second = measured()
    write(6)
    assert first != second != measured()
