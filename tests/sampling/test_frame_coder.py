"""Laws of a model as a codec: every token comes back, in the bits that the model states."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from helpers.models import small, small_frames
from tttvideo.measures.codec import reset_bits, stated_bits, xz_bits
from tttvideo.sampling.code_file import CodeFile
from tttvideo.sampling.frame_coder import TokenBatch, compress, decompress, frequencies
from tttvideo.sampling.frame_streams import score_frames
from tttvideo.sampling.range_coder import TOTAL
from tttvideo.video.address import AddressConfig
from tttvideo.video.conditions import NOTHING, Conditions, ConditionsConfig
from tttvideo.video.frame_head import HeadConfig
from tttvideo.video.palette import PaletteConfig, PaletteTokenizer
from tttvideo.weights.video_checkpoints import VideoCheckpoint


KNOWN = {
    "address": AddressConfig("shift", as_input=True),
    "conditions": ConditionsConfig(actions=4, classes=3, seconds=True),
}
MODELS = {
    "memory": lambda: small_frames(grid=(2, 2), dtype=torch.float32),
    "raster": lambda: small_frames(grid=(2, 2), head=HeadConfig(order="raster")),
    "no memory": lambda: small_frames(grid=(2, 2), mixer=None),
    "conditions": lambda: small_frames(grid=(2, 2), **KNOWN),
    "token mode": lambda: small(grid=(2, 2), window_frames=1, vocab_size=7, dtype=torch.float32),
}


def no_bar(done):
    pass


def checkpoint(name="memory"):
    model, tokenizer = MODELS[name](), PaletteTokenizer(PaletteConfig(16, 7))
    return VideoCheckpoint(model, tokenizer.fingerprint(), 10.0, tokenizer)


def known(B, F):
    """Conditions of B videos of F frames."""
    return Conditions(
        torch.randint(4, (B, F)), torch.randn(B, F + 1, 2), torch.randint(3, (B,)), torch.rand(B, F)
    )


def videos(*shapes, conditions=False):
    """Batches of random videos of (B, F)."""
    torch.manual_seed(0)
    return [
        TokenBatch(torch.randint(7, (B, F, 4)), known(B, F) if conditions else NOTHING)
        for B, F in shapes
    ]


@pytest.mark.parametrize("name", MODELS)
def test_videos_come_back_through_a_file(name, tmp_path):
    batches = videos((3, 5), (3, 5), (1, 2), (2, 1), conditions=name == "conditions")
    compress(checkpoint(name), batches, no_bar).write(tmp_path / "a.code")
    file, frames = CodeFile.read(tmp_path / "a.code"), []
    found = decompress(checkpoint(name), file, frames.append)
    assert file.header.runs == ((3, 5, 2), (1, 2, 1), (2, 1, 1)) and sum(frames) == 34
    for batch, decoded in zip(batches, found, strict=True):
        assert torch.equal(batch.frames, decoded)


@pytest.mark.parametrize("name", ["memory", "conditions"])
def test_the_code_is_within_a_thousandth_of_the_stated_bits(name):
    """Of videos that the model finds likely and of any."""
    model = checkpoint(name)
    batches = videos((16, 120), conditions=name == "conditions")
    with torch.inference_mode():
        model.network.head.out.weight *= 6  # surer, so that its tokens differ in cost
    bits = stated_bits(model.network, batches, no_bar)
    code = compress(model, batches, no_bar).code
    assert (1 - 1e-6) * bits <= 8 * len(code) < 1.001 * bits
    assert abs(bits / (16 * 120 * 4 * math.log2(7)) - 1) > 0.05  # it is no uniform code


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("V", [1, 2, 7, 4096])
def test_frequencies_fill_the_total_and_no_token_costs_more_than_it_should(V, scale):
    logits = scale * torch.randn(50, V)
    found = frequencies(logits)
    assert (found.sum(-1) == TOTAL).all() and (found > 0).all()
    p = logits.double().softmax(-1)
    assert (found >= p * (TOTAL - V) - 1e-6).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="not finite: it diverged"):
        frequencies(torch.tensor([[0.0, bad]]))


def test_another_model_is_refused():
    file, other = compress(checkpoint(), videos((2, 3)), no_bar), checkpoint()
    with torch.inference_mode():
        other.network.norm.weight[0] += 1e-6
    with pytest.raises(ValueError, match=r"made by the model [0-9a-f]{16}, and this is [0-9a-f]"):
        decompress(other, file, no_bar)


def test_probabilities_that_are_rounded_otherwise_are_noticed_at_the_second_frame(monkeypatch):
    file, model, seen = compress(checkpoint(), videos((8, 50)), no_bar), checkpoint(), []
    full = model.network.head.logits
    monkeypatch.setattr(model.network.head, "logits", lambda *x: full(*x) * (1 + 1e-4))
    with pytest.raises(ValueError, match="not those that were compressed.* it was made with torch"):
        decompress(model, file, seen.append)
    assert seen == [8]


def test_a_wrong_byte_at_the_end_is_noticed():
    file = compress(checkpoint(), videos((4, 30)), no_bar)
    for code in (file.code + b"\0", file.code[:-3] + bytes([file.code[-3] ^ 64]) + file.code[-2:]):
        with pytest.raises(ValueError, match="not those that were compressed"):
            decompress(checkpoint(), dataclasses.replace(file, code=code), no_bar)
    with pytest.raises(ValueError, match="ends before its symbols do"):
        decompress(checkpoint(), dataclasses.replace(file, code=file.code[:40]), no_bar)


def test_a_file_that_is_cut_off_or_another_is_refused(tmp_path):
    path = tmp_path / "a.code"
    with pytest.raises(ValueError, match="there is no file"):
        CodeFile.read(path)
    compress(checkpoint("conditions"), videos((2, 3), conditions=True), no_bar).write(path)
    whole = path.read_bytes()
    for size in (20, 100, 700):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="a.code is damaged; compress it again"):
            CodeFile.read(path)
    path.write_bytes(b"text")
    with pytest.raises(ValueError, match="is no file of `tttvideo compress`"):
        CodeFile.read(path)


@pytest.mark.parametrize("name", ["memory", "conditions", "token mode"])
def test_bits_with_a_reset_beyond_the_end_are_the_stated_bits(name):
    model, batches = checkpoint(name).network, videos((2, 9), (3, 4), conditions=True)
    assert reset_bits(model, batches, 9, no_bar) == pytest.approx(
        stated_bits(model, batches, no_bar), rel=1e-5
    )


def test_bits_with_a_reset_are_those_of_videos_that_begin_with_the_frame_before():
    """Where no window and no pose lasts: parts are read from their own start."""
    model = small_frames(grid=(2, 2), window_frames=0)
    (batch,) = videos((2, 11))
    wanted = score_frames(model, batch.frames[:, :4])[0].sum()
    for begin in (4, 8):
        part = batch.frames[:, begin - 1 : begin + 4]
        wanted += score_frames(model, part)[0][:, 1:].sum()
    assert reset_bits(model, [batch], 4, no_bar) == pytest.approx(wanted.item())
    assert reset_bits(model, [batch], 4, no_bar) != stated_bits(model, [batch], no_bar)


def test_a_model_without_memory_loses_nothing_by_a_reset():
    model, batches = small_frames(grid=(2, 2), mixer=None), videos((2, 9))
    assert reset_bits(model, batches, 3, no_bar) == pytest.approx(
        stated_bits(model, batches, no_bar)
    )


def test_xz_takes_the_better_order():
    still = torch.randint(7, (1, 1, 400)).expand(1, 50, 400)
    stripes = torch.randint(7, (1, 400, 1)).expand(1, 400, 50)
    costs = [xz_bits([TokenBatch(x, NOTHING)], 7) for x in (still, stripes)]
    assert np.allclose(costs, costs[0], rtol=0.2) and max(costs) < 0.2 * 20000 * math.log2(7)
