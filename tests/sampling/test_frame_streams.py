"""Laws of videos as streams: scored, sampled, saved, forked, and measured with other memories."""

import math

import pytest
import torch

from helpers.models import small_frames
from helpers.states import assert_same_state, leaves
from tttvideo.measures.memory import alive, bits_by_age, bits_by_frame, remember, state_swap
from tttvideo.sampling.choose import Chooser
from tttvideo.sampling.frame_streams import fork, sample_frames, score_frames
from tttvideo.sampling.saved_states import SavedState, load_state_file, save_state_file


MEMORIES = pytest.mark.parametrize("mixer", ["ttt", "attention", None])


def video(*size):
    return torch.randint(7, (*size, 6))


@MEMORIES
def test_bits_and_prefix_are_the_same_for_any_cut(mixer):
    model, frames = small_frames(mixer=mixer), video(2, 21)
    bits, whole = score_frames(model, frames)
    prefix, parts = None, []
    for part in frames.split([1, 17, 3], dim=1):
        found, prefix = score_frames(model, part, prefix)
        parts.append(found)
    torch.testing.assert_close(torch.cat(parts, dim=1), bits)
    assert_same_state(prefix, whole)
    assert (bits[:, 0] == math.log2(7)).all()
    torch.testing.assert_close(bits_by_frame(model, frames), bits.sum(2).mean(0))


@MEMORIES
def test_a_sampled_video_is_read_as_it_was_sampled(mixer):
    model, frames = small_frames(mixer=mixer), video(2, 5)
    _, prefix = score_frames(model, frames)
    sampled = torch.stack(list(sample_frames(model, prefix, 4, Chooser(seed=1))), dim=1)
    _, after = score_frames(model, sampled[:, :2], prefix)
    again = torch.stack(list(sample_frames(model, after, 2, Chooser(0.0))), dim=1)
    greedy = list(sample_frames(model, prefix, 4, Chooser(0.0)))
    assert sampled.shape == (2, 4, 6) and again.shape == (2, 2, 6)
    _, there = score_frames(model, torch.stack(greedy[:2], dim=1), prefix)
    rest = list(sample_frames(model, there, 2, Chooser(0.0)))
    assert torch.equal(torch.stack(rest), torch.stack(greedy[2:]))


def test_eight_futures_continue_one_saved_state(tmp_path):
    model = small_frames()
    _, prefix = score_frames(model, video(1, 5))
    save_state_file(SavedState(prefix, 5), model, tmp_path / "state")
    loaded = load_state_file(tmp_path / "state", model).prefix
    futures = torch.stack(list(sample_frames(model, fork(loaded, 8), 4, Chooser(seed=3))), dim=1)
    for row in (0, 7):
        alone = list(sample_frames(model, prefix, 4, Chooser(seed=3 + row)))
        assert torch.equal(futures[row], torch.cat(alone))
    assert len(futures.flatten(1).unique(dim=0)) == 8


def test_the_state_of_a_video_does_not_grow():
    model = small_frames()
    sizes = {
        sum(x.numel() for x in leaves(score_frames(model, video(1, n))[1])) for n in (1, 7, 40)
    }
    assert len(sizes) == 1


def test_a_swapped_memory_counts_only_where_there_is_one():
    frames, ages = video(3, 12), torch.randint(-1, 12, (3, 12, 6))
    with_it = state_swap(small_frames(), frames, ages, 8)
    without = state_swap(small_frames(mixer=None), frames, ages, 8)
    assert without["own"] == without["other"] == without["fresh"]
    assert len({m["8 or more"] for m in with_it.values()}) == 3
    model = small_frames()
    bits, _ = score_frames(model, frames)
    assert with_it["own"] == pytest.approx(bits_by_age(bits[:, 9:], ages[:, 9:]))
    _, prefix = score_frames(model, frames)
    assert_same_state(remember(model, frames), prefix)
    _, other = score_frames(model, video(3, 11))
    assert not torch.equal(remember(model, frames, memory=other.state).vectors, prefix.vectors)


def test_bits_are_grouped_by_age():
    ages = torch.tensor([[[-1, 1, 2, 7, 8, 99]]])
    bits = torch.tensor([[[5.0, 4.0, 1.0, 2.0, 3.0, 9.0]]])
    assert bits_by_age(bits, ages) == {"1": 4.0, "2 to 7": 1.5, "8 or more": 6.0, "never": 5.0}
    assert bits_by_age(bits[..., :2], ages[..., :2]) == {"1": 4.0, "never": 5.0}


def test_a_roll_out_is_alive_while_its_coloured_area_is_near_the_truth():
    truth = torch.zeros(4, 1, 8, 8, 3, dtype=torch.uint8)
    images = truth.clone()
    truth[:, :, :5, :2, 1] = 200
    for clip, pixels in enumerate((5, 6, 16, 17)):
        images[clip, 0].view(-1, 3)[:pixels, 2] = 101
    images[:, :, 7, 7] = 100  # a background
    assert alive(images, truth).tolist() == [0.5]
