"""Laws of prefill, scores and decoding."""

import math

import pytest
import torch

from helpers.models import small
from tttvideo.sampling.choose import Chooser
from tttvideo.sampling.decode import decode, likelihood, prefill, score
from tttvideo.sampling.frame_streams import decode_frames


GREEDY = Chooser(temperature=0)


def test_a_prompt_read_in_chunks_equals_the_prompt_read_at_once():
    model, tokens = small(), torch.randint(31, (2, 23))
    whole = prefill(model, tokens).logits
    parts = prefill(model, tokens, chunk=5).logits
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


def test_a_prompt_continues_from_a_prefix():
    model, tokens = small(), torch.randint(31, (2, 23))
    whole = prefill(model, tokens).logits
    parts = prefill(model, tokens[:, 9:], prefix=prefill(model, tokens[:, :9])).logits
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match=r"tokens are \(2, 0\); prefill reads 1 token or more"):
        prefill(small(), torch.zeros(2, 0))


def test_greedy_decoding_equals_rereading_everything():
    model, tokens = small(), torch.randint(31, (2, 7))
    for token in decode(model, prefill(model, tokens), 9, GREEDY):
        again, _ = model(tokens)
        assert torch.equal(token, again[:, -1].argmax(-1))
        tokens = torch.cat((tokens, token[:, None]), dim=1)


def test_frames_are_decoded_as_their_tokens_are():
    model, tokens = small(grid=(2, 3), window_frames=1), torch.randint(31, (1, 12))
    prefix = prefill(model, tokens)
    single = list(decode(model, prefix, 12, GREEDY))
    frames = list(decode_frames(model, prefix, 2, GREEDY))
    assert [frame.shape for frame in frames] == [(1, 6), (1, 6)]
    assert torch.equal(torch.cat(frames, dim=1), torch.stack(single, dim=1))


@pytest.mark.parametrize("chunk", [3, 99])
@pytest.mark.parametrize("cuts", [(23,), (1, 5, 17)], ids=str)
def test_scores_are_minus_log_probabilities_in_nats(cuts, chunk):
    model, tokens = small(), torch.randint(31, (2, 23))
    prefix, costs, likeliest = None, [], []
    for part in tokens.split(cuts, dim=1):
        nats, greedy, prefix = score(model, part, prefix, chunk)
        costs.append(nats)
        likeliest.append(greedy)
    nats, likeliest = torch.cat(costs, dim=1), torch.cat(likeliest, dim=1)
    logits, _ = model(tokens)
    wanted = -logits.log_softmax(-1)[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(nats[:, 1:], wanted, rtol=1e-4, atol=1e-4)
    first = torch.full((2,), math.log(31))
    torch.testing.assert_close(nats[:, 0], first, check_dtype=False)
    assert torch.equal(likeliest[:, 1:], logits[:, :-1].argmax(-1) == tokens[:, 1:])


@pytest.mark.parametrize("chunk", [1, 4, 99])
def test_a_likelihood_sums_the_scores_and_tells_whether_all_tokens_are_the_likeliest(chunk):
    model, tokens = small(), torch.randint(31, (1, 23))
    prefix = prefill(model, tokens)
    greedy = torch.stack(list(decode(model, prefix, 9, GREEDY)), dim=1)
    other = greedy.clone()
    other[0, 5] = (other[0, 5] + 1) % 31
    for text, likeliest in ((greedy, True), (other, False)):
        log_likelihood, all_likeliest = likelihood(model, text, prefix, chunk)
        nats, *_ = score(model, text, prefix)
        assert log_likelihood == pytest.approx(-nats.sum().item())
        assert all_likeliest == likeliest
    assert likelihood(model, tokens[:, :0], prefix) == (0.0, True)
