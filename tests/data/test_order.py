"""Laws of windows, order and resuming."""

import numpy as np
import pytest
import torch

from tttvideo.data.order import ResumableLoader, Windows


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


def new_loader(seed=0, share_fresh=None):
    windows = Windows(np.arange(60), length=6, may_move=True)
    return ResumableLoader(windows, batch_size=2, seed=seed, step=3, share_fresh=share_fresh)


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


def test_a_position_in_other_data_is_refused():
    loader = ResumableLoader(Windows(np.arange(70), length=6, may_move=True), batch_size=2)
    with pytest.raises(ValueError, match="items was 8 and is 10; start a new run"):
        loader.load_state_dict(new_loader().state_dict())
    with pytest.raises(ValueError, match="order was EpochBatches and is LaneBatches"):
        new_loader(share_fresh=0.3).load_state_dict(new_loader().state_dict())


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
