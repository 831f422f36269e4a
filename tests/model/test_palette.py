"""Laws of the palette: lossless for frames of its colours, and only for them."""

import pytest
import torch

from tttvideo.video.palette import PaletteConfig, PaletteTokenizer
from tttvideo.weights.checkpoints import load_frame_tokenizer, save_palette


@pytest.mark.parametrize("colours", [1, 2, 8, 40])
def test_every_token_becomes_a_patch_of_its_own_colour_and_itself_again(colours):
    tokenizer = PaletteTokenizer(PaletteConfig(24, colours))
    tokens = torch.arange(2 * 9).view(2, 9) % colours
    frames = tokenizer.decode(tokens)
    assert frames.shape == (2, 24, 24, 3) and frames.dtype == torch.uint8
    assert torch.equal(tokenizer.encode(frames), tokens)
    assert len(tokenizer.palette.unique(dim=0)) == colours == tokenizer.config.vocab_size


def test_greys_come_first_from_dark_to_white_and_take_no_colour_away():
    greys = PaletteTokenizer(PaletteConfig(8, 11, greys=3)).palette
    assert greys[:3].tolist() == [[20] * 3, [138] * 3, [255] * 3]
    assert torch.equal(greys[3:], PaletteTokenizer(PaletteConfig(8, 8)).palette)


def test_frames_that_it_cannot_give_back_are_refused():
    tokenizer = PaletteTokenizer(PaletteConfig(16, 3))
    frames = tokenizer.decode(torch.tensor([[0, 1, 2, 1]]))
    frames[0, 9, 3, 2] ^= 1
    with pytest.raises(ValueError, match="not made of 8 x 8 patches of the palette's 3 colours"):
        tokenizer.encode(frames)


def test_a_palette_is_saved_and_loaded_as_a_frame_tokenizer(tmp_path):
    tokenizer = PaletteTokenizer(PaletteConfig(16, 5))
    save_palette(tokenizer, tmp_path / "palette.ckpt")
    loaded = load_frame_tokenizer(tmp_path / "palette.ckpt")
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert loaded.fingerprint() != PaletteTokenizer(PaletteConfig(16, 4)).fingerprint()
