"""Laws of texts that are decoded together."""

import pytest
import torch

from helpers.models import MIXERS, small
from tttvideo.sampling.choose import Chooser
from tttvideo.sampling.decode import Decoding, decode, prefill, score
from tttvideo.sampling.texts import Texts, likelihoods, prefill_texts


SEED = 5


def alone(model, prompt, count, temperature, row):
    """Tokens of a text by itself, and the logits after each of them."""
    choose = Chooser(temperature, seed=SEED + row)
    decoding, tokens, logits = Decoding.start(model, prefill(model, prompt)), [], []
    for _ in range(count):
        token = choose(decoding.logits)
        decoding.read(token)
        tokens.append(token.item())
        logits.append(decoding.logits)
    return tokens, logits


@pytest.mark.parametrize("temperature", [0, 1.0], ids=["greedy", "drawn"])
@pytest.mark.parametrize("lengths", [(3, 9, 14), (6, 30, 18, 12), (5, 5)], ids=str)
@pytest.mark.parametrize("name", MIXERS)
def test_each_of_several_texts_equals_the_text_decoded_alone(name, lengths, temperature):
    """Packed, where states differ in structure, and as batches."""
    model = small(**MIXERS[name])
    prompts = [torch.randint(31, (1, length)) for length in lengths]
    prefixes = [prefill(model, prompt) for prompt in prompts]
    texts = Texts(model, prefixes, Chooser(temperature, seed=SEED))
    chosen = [texts.step() for _ in range(7)]
    texts.end(texts.rows)
    for row, prompt in enumerate(prompts):
        tokens, logits = alone(model, prompt, 7, temperature, row)
        assert [step[row] for step in chosen] == tokens
        torch.testing.assert_close(texts.ended[row].logits, logits[-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "mixer, lengths, call",
    [
        ("ttt", (4, 5, 6, 7), (4, 1)),  # at any places of their mini-batches
        ("attention", (5, 5, 5), (3, 1)),
        ("attention", (4, 5, 6, 7), (1, 4)),  # packed
    ],
)
def test_texts_share_their_calls(mixer, lengths, call, monkeypatch):
    model, calls = small(mixer=mixer), []
    prefixes = [prefill(model, torch.randint(31, (1, length))) for length in lengths]
    through = model.through
    monkeypatch.setattr(model, "through", lambda *a: calls.append(tuple(a[1].shape)) or through(*a))
    Texts(model, prefixes, Chooser()).step()
    assert calls == [call]


def test_a_text_that_ends_leaves_the_others_alone():
    model = small()
    prompts = [torch.randint(31, (1, length)) for length in (4, 8, 5)]
    truth = [alone(model, prompt, 8, 1.0, row)[0] for row, prompt in enumerate(prompts)]
    texts = Texts(model, [prefill(model, p) for p in prompts], Chooser(seed=SEED))
    chosen = [texts.step() for _ in range(3)]
    texts.end([1])
    assert texts.rows == [0, 2]
    chosen += [texts.step() for _ in range(5)]
    for row in (0, 2):
        assert [step[row] for step in chosen] == truth[row]
    assert all(1 not in step for step in chosen[3:])


def test_a_text_ends_at_the_mark_of_the_end_which_is_not_read():
    model, prompt = small(), torch.randint(31, (1, 6))
    tokens, logits = alone(model, prompt, 6, 1.0, 0)
    eos = tokens[-1]
    first = tokens.index(eos)
    texts = Texts(model, [prefill(model, prompt)], Chooser(seed=SEED), eos)
    chosen = []
    while texts.rows:
        chosen += texts.step().values()
    assert chosen == tokens[:first]
    torch.testing.assert_close(texts.ended[0].logits, logits[first - 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 4, 99])
@pytest.mark.parametrize("name", [name for name in MIXERS if name != "video"])
def test_likelihoods_sum_the_scores_and_show_whether_all_tokens_are_greedy_choices(name, chunk):
    model = small(**MIXERS[name])
    contexts = [torch.randint(31, (1, length)) for length in (23, 4, 9, 9)]
    prefixes = [prefill(model, context) for context in contexts]
    texts = [torch.randint(31, (length,)).tolist() for length in (6, 0, 13, 1)]
    greedy = torch.cat([*decode(model, prefixes[2], 13, Chooser(0))]).tolist()
    texts[2] = greedy if chunk > 1 else [*greedy[:-1], (greedy[-1] + 1) % 31]
    read = prefill_texts(model, [context[0].tolist() for context in contexts], chunk)
    found = likelihoods(model, texts, read, chunk)
    for text, prefix, (nats, all_greedy) in zip(texts, prefixes, found, strict=True):
        costs = score(model, torch.tensor([text]), prefix)[0] if text else torch.zeros(1)
        assert nats == pytest.approx(-costs.sum().item(), rel=1e-9)
        assert all_greedy == (text == greedy or not text)
