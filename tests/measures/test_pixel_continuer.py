"""Laws of a model of pixels that continues clips."""

import torch

from tttvideo.measures.pixel_continuer import PixelsContinue
from tttvideo.states import tree_map
from tttvideo.video.conditions import NOTHING
from tttvideo.video.conv_lstm import ConvLSTM, ConvLSTMConfig
from tttvideo.weights.video_checkpoints import PixelCheckpoint


def greedy(*_):
    raise AssertionError("a model of pixels draws nothing")


def continuer():
    torch.manual_seed(0)
    return PixelsContinue(PixelCheckpoint(ConvLSTM(ConvLSTMConfig(size=12, width=6))))


def test_pieces_are_read_and_continued_as_the_roll_out_of_training():
    model, frames = continuer(), torch.randint(256, (2, 5, 12, 12, 3), dtype=torch.uint8)
    _, state = model.read(frames[:, :2], NOTHING)
    bits, state = model.read(frames[:, 2:], NOTHING, state)
    assert bits is None and model.tokens is None and model.through(frames) is None
    made = torch.stack([*model.ahead(state, 4, NOTHING, greedy)], dim=1)
    wanted = model.network.roll_out(frames, 4)[:, 4:].clamp(0, 1) * 255
    assert made.shape == (2, 4, 12, 12, 3) and made.dtype == torch.uint8
    assert (made - wanted).abs().max() <= 0.51
    again = torch.stack([*model.ahead(state, 4, NOTHING, greedy)], dim=1)
    assert torch.equal(again, made)


def test_a_state_has_the_clips_on_its_first_axis():
    model, frames = continuer(), torch.randint(256, (2, 3, 12, 12, 3), dtype=torch.uint8)
    _, both = model.read(frames, NOTHING)
    _, second = model.read(frames[1:], NOTHING)
    tree_map(lambda x, y: torch.testing.assert_close(x[1:], y), both, second)
