"""Laws of the frame tokenizer."""

import pytest
import torch

from tttvideo.video.frame_tokenizer import FSQ, FrameTokenizer, FrameTokenizerConfig


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (4, 3), (2,)], ids=str)
def test_every_token_becomes_codes_and_itself_again(levels):
    fsq = FSQ(levels)
    tokens = torch.arange(torch.tensor(levels).prod())
    codes = fsq.to_codes(tokens)
    assert torch.equal(fsq.to_tokens(codes), tokens)
    assert codes.abs().max() <= 1
    assert len(codes.unique(dim=0)) == len(tokens)


def test_quantised_values_are_codes_and_reach_every_level():
    fsq = FSQ((8, 5, 5, 5))
    codes = fsq(torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0)) * 4)
    tokens = fsq.to_tokens(codes)
    assert tokens.min() >= 0 and tokens.max() < 1000
    torch.testing.assert_close(fsq.to_codes(tokens), codes.detach())
    assert [len(codes[:, i].unique()) for i in range(4)] == [8, 5, 5, 5]


def test_the_gradient_passes_the_rounding():
    z = torch.zeros(3, 4, requires_grad=True)
    FSQ((8, 5, 5, 5))(z).sum().backward()
    assert (z.grad > 0).all()


@pytest.mark.parametrize("size", [64, 16, 24])
def test_a_frame_of_any_size_gives_a_token_per_patch(size):
    tokenizer = FrameTokenizer(FrameTokenizerConfig(size=size, width=8, blocks=1))
    frames = torch.randint(256, (3, size, size, 3), dtype=torch.uint8)
    tokens = tokenizer.encode(frames)
    assert tokens.shape == (3, (size // 8) ** 2)
    assert tokens.max() < tokenizer.config.vocab_size == 1000
    back = tokenizer.decode(tokens)
    assert (back.shape, back.dtype) == (frames.shape, torch.uint8)


def test_a_frame_is_tokenised_alone():
    tokenizer = FrameTokenizer(FrameTokenizerConfig(size=16, width=8, blocks=1))
    frames = torch.randint(256, (3, 16, 16, 3), dtype=torch.uint8)
    alone = torch.cat([tokenizer.encode(frame[None]) for frame in frames])
    assert torch.equal(tokenizer.encode(frames), alone)


def test_a_token_depends_on_its_patch_alone():
    tokenizer = FrameTokenizer(FrameTokenizerConfig(size=24, width=8, blocks=1))
    torch.nn.init.normal_(tokenizer.encoder[-1].weight)
    frames = torch.randint(256, (2, 24, 24, 3), dtype=torch.uint8)
    before = tokenizer.encode(frames).clone()
    frames[:, 8:16, 8:16] ^= 127
    changed = (tokenizer.encode(frames) != before).any(0)
    assert changed.nonzero().tolist() == [[4]]


def test_a_decoded_pixel_depends_on_the_tokens_near_it_alone():
    tokenizer = FrameTokenizer(FrameTokenizerConfig(size=64, width=8, blocks=1)).double()
    torch.nn.init.normal_(tokenizer.decoder[0].second.weight)
    tokens = torch.randint(1000, (1, 64))
    codes = tokenizer.fsq.to_codes(tokens.view(1, 8, 8)).double()
    frames = tokenizer.pixels(codes)
    codes[0, 0, 0] *= -1
    changed = (tokenizer.pixels(codes) != frames)[0].any(2).nonzero()
    assert changed.max() == 3 * 8 - 1


def test_the_fingerprint_follows_the_weights():
    torch.manual_seed(0)
    tokenizer = FrameTokenizer(FrameTokenizerConfig(size=16, width=8, blocks=1))
    before = tokenizer.fingerprint()
    assert tokenizer.fingerprint() == before
    tokenizer.place.data[0] += 1
    assert tokenizer.fingerprint() != before


def test_a_size_that_is_no_multiple_of_a_patch_is_refused():
    with pytest.raises(ValueError, match="frame size 60 must be a multiple of 8"):
        FrameTokenizer(FrameTokenizerConfig(size=60))
