"""Laws of generation."""

import math

import pytest
import torch

from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.sampling import chooser, decode, decode_frames, prefill, score
from tttvideo.ttt import TTTConfig


def small(grid=None, **changes):
    torch.manual_seed(0)
    ttt = TTTConfig(mini_batch_size=None if grid else 4)
    model = Backbone(BackboneConfig(31, 16, 2, 2, 24, grid=grid, ttt=ttt, **changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double()


def test_a_long_prompt_read_in_chunks_is_the_prompt_read_at_once():
    model, tokens = small(), torch.randint(31, (2, 23))
    whole, _ = prefill(model, tokens)
    torch.testing.assert_close(prefill(model, tokens, chunk=5)[0], whole, rtol=1e-5, atol=1e-5)


def test_greedy_decoding_is_what_rereading_everything_would_choose():
    model, tokens = small(), torch.randint(31, (2, 7))
    for token, _ in decode(model, prefill(model, tokens), 9, chooser(temperature=0)):
        again, _ = model(tokens)
        assert torch.equal(token, again[:, -1].argmax(-1))
        tokens = torch.cat((tokens, token[:, None]), dim=1)


def test_frames_are_decoded_as_their_tokens_are():
    model, tokens = small(grid=(2, 3), window_frames=1), torch.randint(31, (1, 12))
    heard = prefill(model, tokens)
    single = [token for token, _ in decode(model, heard, 12, chooser(temperature=0))]
    frames = list(decode_frames(model, heard, 2, chooser(temperature=0)))
    assert [frame.shape for frame in frames] == [(1, 6), (1, 6)]
    assert torch.equal(torch.cat(frames, dim=1), torch.stack(single, dim=1))


@pytest.mark.parametrize("cuts", [(23,), (1, 5, 17)], ids=str)
def test_scores_are_minus_log_probabilities_in_bits(cuts):
    model, tokens = small(), torch.randint(31, (2, 23))
    heard, bits = None, []
    for part in tokens.split(cuts, dim=1):
        cost, heard = score(model, part, heard)
        bits.append(cost)
    bits = torch.cat(bits, dim=1)
    logs = model(tokens)[0].log_softmax(-1) / math.log(2)
    wanted = -logs[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(bits[:, 1:], wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bits[:, 0], torch.full((2,), math.log2(31)), check_dtype=False)


LOGITS = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()


def share(choose, draws=4000):
    tokens = choose(LOGITS.expand(draws, -1))
    return (tokens.bincount(minlength=4) / draws).tolist()


@pytest.mark.parametrize(
    "options, wanted",
    [
        ({}, [0.5, 0.3, 0.15, 0.05]),
        ({"temperature": 0}, [1, 0, 0, 0]),
        ({"top_k": 2}, [0.625, 0.375, 0, 0]),
        ({"top_p": 0.4}, [1, 0, 0, 0]),
        ({"top_p": 0.81}, [0.526, 0.316, 0.158, 0]),
        ({"temperature": 0.5}, [0.685, 0.247, 0.062, 0.007]),
    ],
    ids=str,
)
def test_tokens_are_drawn_as_the_options_say(options, wanted):
    assert share(chooser(**options, seed=0)) == pytest.approx(wanted, abs=0.03)


def test_a_seed_gives_the_same_draws_again():
    logits = torch.zeros(50, 31)
    first = chooser(seed=3)(logits)
    assert torch.equal(first, chooser(seed=3)(logits))
    assert not torch.equal(first, chooser(seed=4)(logits))


@pytest.mark.parametrize("options", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}], ids=str)
def test_options_without_meaning_are_named(options):
    with pytest.raises(ValueError, match="temperature and top-k must be 0 or more"):
        chooser(**options)
