"""Laws of prefill, scores and decoding."""

import math

import pytest
import torch

from helpers.models import MIXERS, small
from helpers.states import assert_same_state, leaves
from tttvideo.mixers.ttt import TTTDecoding, TTTState
from tttvideo.sampling.choose import Chooser
from tttvideo.sampling.decode import Decoding, decode, prefill, score
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


@torch.inference_mode()
@pytest.mark.parametrize("name", MIXERS)
def test_decoding_in_place_equals_forward_token_by_token(name):
    model, tokens = small(**MIXERS[name]), torch.randint(31, (3, 20))
    prefix = prefill(model, tokens[:, :7])
    decoding, state = Decoding.start(model, prefix), prefix.state
    slots = isinstance(decoding.state.blocks[0].mixer, TTTDecoding)
    assert slots == (name not in ("attention", "mamba"))
    for token in tokens[:, 7:].unbind(1):
        decoding.read(token)
        logits, state = model(token[:, None], state)
        torch.testing.assert_close(decoding.logits, logits[:, 0], rtol=1e-6, atol=1e-6)
    assert_same_state(decoding.prefix().state, state)


@pytest.mark.parametrize("name", MIXERS)
def test_two_continuations_of_a_prefix_do_not_touch_it_or_each_other(name):
    model, tokens = small(**MIXERS[name]), torch.randint(31, (2, 20))
    prefix = prefill(model, tokens[:, :7])
    before = [leaf.clone() for leaf in leaves(prefix)]
    forks = [Decoding.start(model, prefix) for _ in range(2)]
    taken = forks[0].prefix()
    for one, other in zip(tokens[:, 7:].unbind(1), tokens[:, 7:].flip(1).unbind(1), strict=True):
        forks[0].read(one)
        forks[1].read(other)
    for fork, text in zip(forks, (tokens[:, 7:], tokens[:, 7:].flip(1)), strict=True):
        wanted = prefill(model, text, prefix=prefix)
        torch.testing.assert_close(fork.logits, wanted.logits, rtol=1e-6, atol=1e-6)
        assert_same_state(fork.prefix().state, wanted.state)
    assert all(map(torch.equal, leaves(prefix), before))
    assert all(map(torch.equal, leaves(taken), before))


@pytest.mark.parametrize("ttt", [{"norm": False}, {"backend": "reference"}], ids=str)
def test_inner_models_and_backends_without_slots_decode_in_states(ttt):
    model, tokens = small(ttt=ttt), torch.randint(31, (2, 12))
    for parameter in model.parameters():
        parameter.data.mul_(0.1)  # without a norm larger weights diverge
    decoding = Decoding.start(model, prefill(model, tokens[:, :5]))
    for token in tokens[:, 5:].unbind(1):
        decoding.read(token)
    assert isinstance(decoding.state.blocks[0].mixer, TTTState)
    wanted = prefill(model, tokens)
    torch.testing.assert_close(decoding.logits, wanted.logits, rtol=1e-6, atol=1e-6)


def test_decoding_under_autocast_equals_forward_under_autocast():
    model, tokens = small(dtype=torch.float32), torch.randint(31, (2, 12))
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        prefix = prefill(model, tokens[:, :5])
        decoding = Decoding.start(model, prefix)
        logits, _ = model(tokens[:, 5:], prefix.state)
        for token in tokens[:, 5:].unbind(1):
            decoding.read(token)
    assert decoding.state.blocks[0].mixer.rows[0].dtype == torch.bfloat16
    error = (decoding.logits - logits[:, -1]).norm() / logits[:, -1].norm()
    assert error < 0.03


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
    prefix, costs, choices = None, [], []
    for part in tokens.split(cuts, dim=1):
        nats, greedy, prefix = score(model, part, prefix, chunk)
        costs.append(nats)
        choices.append(greedy)
    nats, greedy = torch.cat(costs, dim=1), torch.cat(choices, dim=1)
    logits, _ = model(tokens)
    wanted = -logits.log_softmax(-1)[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(nats[:, 1:], wanted, rtol=1e-4, atol=1e-4)
    first = torch.full((2,), math.log(31))
    torch.testing.assert_close(nats[:, 0], first, check_dtype=False)
    assert torch.equal(greedy[:, 1:], logits[:, :-1].argmax(-1) == tokens[:, 1:])
