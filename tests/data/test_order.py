"""Laws of windows, order and resuming."""

import numpy as np
import pytest
import torch

from tttvideo.data.lanes import deal_lanes
from tttvideo.data.order import ResumableLoader, VideoWindows, Windows


def test_consecutive_windows_share_one_token():
    windows = Windows(np.arange(20), length=6)
    assert [w.tokens.tolist() for w in windows] == [list(range(n, n + 7)) for n in (0, 6, 12)]
    inside = Windows(np.arange(20), length=6, span=(3, 17))
    assert [w.tokens.tolist() for w in inside] == [list(range(n, n + 7)) for n in (3, 9)]
    with pytest.raises(ValueError, match="6 tokens are too few for one window of 6"):
        Windows(np.arange(6), length=6)


@pytest.mark.parametrize("total", [7, 12, 13, 19, 20])
def test_moved_windows_stay_inside_the_tokens(total):
    windows = Windows(np.arange(total), length=6, may_move=True)
    for offset in range(6):
        windows.move_by(offset)
        for n in range(len(windows)):
            assert len(windows[n].tokens) == 7


def test_windows_mark_where_documents_begin():
    windows = Windows(np.arange(20), length=6, starts=np.array([0, 6, 7, 11, 12, 19]))
    begins = [w.begins.nonzero()[:, 0].tolist() for w in windows]
    assert begins == [[0], [0, 1, 5], [0]]
    assert Windows(np.arange(20), length=6)[0].begins is None


FRAME, STARTS, FRAMES = 2, np.array([0, 14, 18, 40]), 50


def video_windows(may_move=False, span=None, length=6):
    """Windows of three frames over videos of 7, 2, 11 and 30 frames; frame f has tokens f, f."""
    rows = np.arange(FRAMES)
    known = {
        "actions": rows % 5,
        "poses": np.stack((rows, -rows), axis=1) / 2,
        "ages": np.stack((rows, rows + 1), axis=1),
        "classes": rows // 7,
    }
    return VideoWindows(rows.repeat(FRAME), length, FRAME, STARTS, span, may_move, known)


@pytest.mark.parametrize("offset", [0, 2, 4])
def test_windows_of_video_are_inside_one_video_and_share_a_frame(offset):
    windows = video_windows(may_move=offset > 0)
    windows.move_by(offset)
    assert len(windows) == 2 + 0 + 3 + 9 - (offset > 0)
    borders = np.array([*(STARTS // FRAME), FRAMES])
    before = None
    for window, first in zip(windows, windows.firsts, strict=True):
        frames = window.tokens.view(-1, FRAME)
        assert frames.shape == (4, 2) and (frames.diff(dim=1) == 0).all()
        inside = np.searchsorted(borders, frames[[0, -1], 0].numpy(), "right")
        assert inside[0] == inside[1]
        assert first == (before is None or inside[0] != before[0])
        assert first or frames[0, 0] == before[1]
        before = inside[0], frames[-1, 0]


def test_all_frames_of_video_are_read_when_windows_move():
    windows, seen = video_windows(may_move=True), set()
    for offset in (0, 2, 4):
        windows.move_by(offset)
        seen.update(int(token) for window in windows for token in window.tokens)
    assert seen == set(range(FRAMES)) - {7, 8}


def test_conditions_are_of_the_frames_of_their_window():
    for window in video_windows(span=(6, 44)):
        frames, known = window.tokens.view(-1, FRAME)[:, 0], window.conditions
        assert known.actions.tolist() == (frames[:-1] % 5).tolist()
        assert known.poses.tolist() == torch.stack((frames, -frames), 1).div(2).tolist()
        assert known.ages.tolist() == torch.stack((frames, frames + 1), 1)[1:].tolist()
        assert known.classes == frames[0] // 7 and known.seconds is None
        assert known.poses.dtype == torch.float32 and known.ages.dtype == torch.int64


def read_by_lane(windows, batch_size, **options):
    """What each lane reads in an epoch: the first frames of its windows, those that are fresh
    negative less one.
    """
    loader = ResumableLoader(windows, batch_size, step=FRAME, **options)
    lanes = [[] for _ in range(batch_size)]
    for batch in loader:
        for lane, tokens, fresh in zip(lanes, batch.tokens, batch.fresh, strict=False):
            lane.append((tokens[0].item(), fresh.item()))
    return lanes


def test_lanes_read_whole_videos_in_order_and_start_each_fresh():
    longest, other = read_by_lane(video_windows(), 2, share_fresh=0)
    assert longest == [(frame, frame == 20) for frame in range(20, 47, 3)]
    pieces = [(0, True), (3, False)], [(9, True), (12, False), (15, False)]
    assert other in (sum(pieces, []), sum(pieces[::-1], []))


def test_a_video_is_cut_only_if_there_are_fewer_videos_than_lanes():
    lanes = read_by_lane(video_windows(), 6, share_fresh=0)
    assert sorted(frame for lane in lanes for frame, _ in lane) == [
        *(0, 3, 9, 12, 15),
        *range(20, 47, 3),
    ]
    assert max(map(len, lanes)) == 3 and all(lane[0][1] for lane in lanes)
    begins = [frame for lane in lanes for frame, fresh in lane if fresh]
    assert {0, 9, 20} <= set(begins) and len(begins) <= 6 + 2  # two videos were cut


def test_lanes_are_dealt_evenly_and_shuffled_anew_in_each_epoch():
    counts = np.random.default_rng(0).integers(1, 40, 1000)
    firsts = np.concatenate([np.arange(count) == 0 for count in counts])
    deals = [deal_lanes(firsts, 7, np.random.default_rng(seed)) for seed in range(2)]
    for lanes in deals:
        assert len(lanes[0]) - len(lanes[-1]) <= 1
        assert [*map(len, lanes)] == [*map(len, deals[0])]
        read = [lane.window(step) for lane in lanes for step in range(len(lane))]
        assert sorted(read) == [(number, fresh) for number, fresh in enumerate(firsts)]
    assert deals[0][0].firsts.tolist() != deals[1][0].firsts.tolist()


def test_videos_shorter_than_a_window_are_refused():
    with pytest.raises(ValueError, match="no video has the 31 frames that a window of 60 tokens"):
        video_windows(length=60)


def deliver(loader, batches):
    """The next batches, over as many epochs as it takes, as a consumer that counts takes them."""
    taken = []
    while len(taken) < batches:
        for number, batch in enumerate(loader, 1):
            fresh = None if batch.fresh is None else batch.fresh.tolist()
            taken.append((batch.tokens.tolist(), fresh))
            if len(taken) == batches or number == len(loader):
                break
    return taken


def new_loader(seed=0, share_fresh=None, workers=0):
    windows = Windows(np.arange(60), length=6, may_move=True)
    options = {"step": 3, "share_fresh": share_fresh, "workers": workers}
    return ResumableLoader(windows, batch_size=2, seed=seed, **options)


def test_the_order_depends_on_seed_and_epoch_alone():
    first = deliver(new_loader(), 8)
    torch.manual_seed(5)
    np.random.seed(5)
    assert deliver(new_loader(), 8) == first
    assert deliver(new_loader(seed=1), 8) != first
    assert first[:4] != first[4:]


def test_windows_of_video_begin_at_whole_frames():
    starts = {row[0] % 3 for batch, _ in deliver(new_loader(), 40) for row in batch}
    assert starts == {0}


@pytest.mark.parametrize("share_fresh", [None, 0.5])
@pytest.mark.parametrize("stop", [1, 3, 4, 5, 9])
def test_a_loader_resumes_at_the_next_batch(stop, share_fresh):
    whole = deliver(new_loader(share_fresh=share_fresh), 12)
    loader = new_loader(share_fresh=share_fresh)
    assert deliver(loader, stop) == whole[:stop]
    resumed = new_loader(share_fresh=share_fresh)
    resumed.load_state_dict(loader.state_dict())
    assert deliver(resumed, 12 - stop) == whole[stop:]


@pytest.mark.parametrize("share_fresh", [None, 0.5])
def test_workers_change_no_batch(share_fresh):
    wanted = deliver(new_loader(share_fresh=share_fresh), 6)
    loader = new_loader(share_fresh=share_fresh, workers=2)
    assert deliver(loader, 6) == wanted
    assert loader.wait.seconds > 0


def test_a_position_in_other_data_is_refused():
    loader = ResumableLoader(Windows(np.arange(70), length=6, may_move=True), batch_size=2)
    with pytest.raises(ValueError, match="items was 8 and is 10; start a new run"):
        loader.load_state_dict(new_loader().state_dict())
    with pytest.raises(ValueError, match="order was EpochBatches and is LaneBatches"):
        new_loader(share_fresh=0.3).load_state_dict(new_loader().state_dict())
    with pytest.raises(ValueError, match="has 2 processes, and there are 1; set trainer.devices"):
        new_loader().load_state_dict(new_loader().state_dict() | {"processes": 2})


def test_a_lane_continues_after_its_last_window_unless_it_is_fresh():
    before = None
    for number, (rows, fresh) in enumerate(deliver(new_loader(share_fresh=0.3), 40)):
        assert fresh == [True, True] or number % 4
        if number % 4:  # of an epoch
            for lane, (last, row) in enumerate(zip(before, rows, strict=True)):
                assert fresh[lane] or row[0] == last[-1]
        before = rows


def test_lanes_read_all_windows_of_an_epoch_once():
    rows = [row for batch, _ in deliver(new_loader(share_fresh=0), 4) for row in batch]
    assert len({row[0] for row in rows}) == 8
    flags = [flag for _, fresh in deliver(new_loader(share_fresh=0.5), 400) for flag in fresh]
    assert 0.55 < np.mean(flags) < 0.8  # a half, and all of every fourth batch
