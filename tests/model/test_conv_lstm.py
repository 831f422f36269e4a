"""Laws of the ConvLSTM of pixels."""

import pytest
import torch

from helpers.states import assert_same_state
from tttvideo.video.conv_lstm import ConvLSTM, ConvLSTMConfig, ConvLSTMLayer


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ConvLSTM(ConvLSTMConfig(size=12, patch=4, width=6, depth=2)).double()


def video(count=7):
    return torch.randint(256, (2, count, 12, 12, 3), dtype=torch.uint8)


@pytest.mark.parametrize("cuts", [(7,), (1,) * 7, (3, 1, 3)], ids=str)
def test_any_cut_gives_the_same_frames_and_state(model, cuts):
    frames = video()
    whole, state = model(frames)
    parts, own = [], None
    for part in frames.split(cuts, dim=1):
        after, own = model(part, own)
        parts.append(after)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
    assert_same_state(own, state, tolerance=1e-12)


def test_a_later_frame_changes_no_earlier_prediction(model):
    frames = video()
    before, _ = model(frames)
    frames[:, 4] = 255 - frames[:, 4]
    after, _ = model(frames)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.isclose(before[:, 4:], after[:, 4:]).all(-1).any()


def test_clips_of_a_batch_do_not_touch_each_other(model):
    frames = video()
    both, _ = model(frames)
    for row in range(2):
        torch.testing.assert_close(model(frames[row : row + 1])[0], both[row : row + 1])


def test_a_layer_is_equation_3_of_the_paper():
    layer = ConvLSTMLayer(inputs=1, width=1, kernel=1).double()
    x, (h, c) = torch.randn(1, 1, 1, 1).double(), torch.randn(2, 1, 1, 1, 1).double()
    weight, bias = layer.gates.weight[:, :, 0, 0], layer.gates.bias
    i, f, o, g = weight @ torch.stack((x, h)).flatten() + bias
    cell = f.sigmoid() * c + i.sigmoid() * g.tanh()
    wanted = o.sigmoid() * cell.tanh(), cell
    for found, own in zip(layer(x, (h, c)), wanted, strict=True):
        torch.testing.assert_close(found, own)


def test_a_roll_out_reads_its_own_frames(model):
    frames = video(count=3)
    made = model.roll_out(frames, count=4)
    known, state = model(frames)
    assert made.shape == (2, 6, 12, 12, 3)
    torch.testing.assert_close(made[:, :3], known)
    for n in range(2, 5):
        maps = model.to_maps(made[:, n : n + 1] * 255)
        after, state = model.read(maps, state)
        torch.testing.assert_close(model.to_frames(after)[:, 0], made[:, n + 1])


def test_patches_are_cut_and_joined_without_loss(model):
    frames = video()
    assert torch.equal(model.to_frames(model.to_maps(frames)), frames.double() / 255)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"patch": 5}, "size is 64; it must be a multiple of conv_lstm.patch, 5"),
        ({"kernel": 4}, "kernel is 4; it must be odd"),
        ({"depth": 0}, "depth is 0; it must be 1 or more"),
    ],
)
def test_sizes_that_make_no_model_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ConvLSTM(ConvLSTMConfig(**changes))


def test_frames_of_another_size_are_refused(model):
    with pytest.raises(ValueError, match=r"they must be \(batch, frames, 12, 12, 3\)"):
        model(torch.zeros(1, 2, 8, 8, 3, dtype=torch.uint8))
