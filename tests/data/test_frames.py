"""Laws of the frames that train a frame tokenizer: their order, and what is held out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tttvideo.data import frames as frames_room
from tttvideo.data.frame_chunks import CHUNK
from tttvideo.data.frames import FrameLoader, HeldFrames, hold_out, open_parts, share_of
from tttvideo.data.modules import FrameData
from tttvideo.data.video.probe import VideoError
from tttvideo.data.video.views import view_of
from tttvideo.data.video.writer import write_video


SIZE = 16
LENGTHS = 150, 30, 70  # frames of the videos: one has several chunks


def grey(number, size):
    """A frame that shows its number, and a coarse pattern of it."""
    frame = np.full((size, size, 3), number % 250, np.uint8)
    frame[: size // 2] = 100 + number // 250
    return frame


def number_of(frame):
    return int(frame[-1, 0, 0]) + 250 * (int(frame[0, 0, 0]) - 100)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder of lossless videos whose frames show their numbers."""
    folder, number = tmp_path_factory.mktemp("videos"), 0
    for name, length in zip("abc", LENGTHS, strict=True):
        frames = [grey(number + n, SIZE) for n in range(length)]
        write_video(folder / f"{name}.mp4", frames, 10, lossless=True)
        number += length
    return [str(folder)]


def loader(videos, buffer=64, seed=0, workers=0, batch_size=8, sizes=(SIZE,)):
    return FrameLoader(open_parts(videos, sizes, None), batch_size, buffer, seed, workers)


def deliver(loader, count):
    """The next batches over as many epochs as it takes."""
    taken = []
    while len(taken) < count:
        for batch in loader:
            taken.append(batch.numpy().copy())
            if len(taken) == count:
                break
    return taken


def numbers(batches):
    return [number_of(frame) for batch in batches for frame in batch]


def test_frames_leave_a_small_pool_as_often_as_they_are_read(videos):
    frames = loader(videos)
    assert len(frames) == 250 // 8 and frames.places == 64
    read = numbers(deliver(frames, 2 * 250 // 8 + 8))
    counts = np.bincount(read, minlength=250)
    assert set(counts) <= {1, 2, 3} and len(frames.pool[1]) == 64
    first = read[:64]
    assert first != sorted(first) and len(set(first)) == 64


def test_a_pool_that_holds_all_frames_is_read_once_and_shuffled_in_each_epoch(videos):
    frames = loader(videos, buffer=250)
    epochs = [numbers(deliver(frames, len(frames))) for _ in range(3)]
    assert all(len(set(epoch)) == 248 for epoch in epochs) and epochs[0] != epochs[1]
    frames.chunks = None
    deliver(frames, 40)


@pytest.mark.parametrize("buffer", [64, 250])
@pytest.mark.parametrize("stop", [1, 8, 30, 31, 45, 70])
def test_frames_resume_at_the_next_batch(videos, buffer, stop):
    whole = deliver(loader(videos, buffer), 90)
    assert not np.array_equal(whole[0], deliver(loader(videos, buffer, seed=1), 1)[0])
    before = loader(videos, buffer)
    deliver(before, stop)
    after = loader(videos, buffer)
    after.load_state_dict(before.state_dict())
    assert np.array_equal(deliver(after, 90 - stop), whole[stop:])


def test_frames_that_workers_read_resume_too(videos):
    before, after = loader(videos, workers=2), loader(videos, workers=2)
    state = before.state_dict() | {"epoch": 1, "delivered": 2}
    whole = deliver(before, 60)
    after.load_state_dict(state)
    assert np.array_equal(deliver(after, 27), whole[33:])
    assert set(np.bincount(numbers(whole))) <= {1, 2, 3}
    with pytest.raises(ValueError, match="workers was 2 and is 0; start a new run"):
        loader(videos).load_state_dict(state)


def test_processes_share_out_whole_videos_or_else_the_frames_of_each(videos):
    parts = open_parts(videos, [SIZE], None)
    shares = [[len(part.places) for part in share_of(parts, rank, 2)] for rank in range(2)]
    assert shares == [[150], [70, 30]]
    for world in (2, 4):
        ranks = [share_of(parts, rank, world) for rank in range(world)]
        read = [part.number + place for share in ranks for part in share for place in part.places]
        assert sorted(read) == [*range(250)]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_process_resumes_from_the_state_of_the_first(videos, monkeypatch, workers):
    def at(rank, buffer):
        monkeypatch.setattr(frames_room, "processes", lambda: (rank, 2))
        return loader(videos, buffer, workers=workers)

    for buffer in (64, 120):  # places of the pools 64 and 64; 120 and 100, the whole share
        first = at(0, buffer)
        deliver(first, 15)
        after = at(1, buffer)
        after.load_state_dict(first.state_dict())
        whole = deliver(at(1, buffer), 30)
        assert np.array_equal(deliver(after, 15), whole[15:])
        with pytest.raises(ValueError, match=f"buffer was {buffer} and is 63"):
            at(1, 63).load_state_dict(first.state_dict())


def test_half_of_the_frames_are_views_of_the_larger_frames(videos):
    frames = loader(videos, buffer=250, batch_size=25, sizes=(SIZE, 20))
    for batch in deliver(frames, 10):
        assert batch.shape == (25, SIZE, SIZE, 3)
    order = frames.leaving[:25]
    frames.epoch = frames.delivered = 0
    (batch,) = deliver(frames, 1)
    for slot, shown in zip(order.tolist(), batch, strict=True):
        number, plain, wide = (x[slot : slot + 1] for x in frames.pool)
        view = view_of(0, 0, number.item())
        assert torch.equal(torch.from_numpy(shown), (view.of(wide, SIZE) if view else plain)[0])


def test_whole_videos_are_held_out_or_else_the_end(videos):
    parts = open_parts(videos, [SIZE], None)
    learned, held = hold_out(parts, 0.4)
    assert [len(part.places) for part in learned] == [150, 30]
    assert numbers([HeldFrames(held, 100).frames.numpy()]) == [*range(180, 250)]
    learned, held = hold_out(parts, 0.1)
    assert sum(len(part.places) for part in learned) == 225
    assert numbers([HeldFrames(held, 100).frames.numpy()]) == [*range(225, 250)]
    assert numbers([HeldFrames(held, 9).frames.numpy()]) == [*range(225, 250, 3)]
    with pytest.raises(ValueError, match="1 frame is too few for training and validation"):
        hold_out([replace(parts[0], stop=1)], 0.5)
    assert sum(len(part.places) for part in open_parts(videos, [SIZE], end=4.0)) == 40 + 30 + 40
    with pytest.raises(ValueError, match="no frame before 0.0 seconds"):
        open_parts(videos, [SIZE], end=0.0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_video_that_vanishes_ends_with_one_line(workers, tmp_path):
    write_video(tmp_path / "a.mp4", [grey(n, SIZE) for n in range(CHUNK + 9)], 10, lossless=True)
    frames = loader([str(tmp_path)], buffer=8, workers=workers)
    batches = iter(frames)
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(VideoError) as error:
        for _ in range(20):
            next(batches)
    assert "a.mp4" in str(error.value) and "\n" not in str(error.value)


def test_a_pool_smaller_than_a_batch_is_refused(videos):
    with pytest.raises(ValueError, match="buffer is 31; it must be at least data.batch_size, 32"):
        FrameData(videos, buffer=31).setup("fit")
