"""Laws of choosing tokens from logits."""

import pytest
import torch

from tttvideo.sampling.choose import Chooser


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
def test_tokens_are_drawn_with_the_probabilities_of_the_options(options, wanted):
    assert share(Chooser(**options, seed=0)) == pytest.approx(wanted, abs=0.03)


def test_a_seed_gives_the_same_draws_again():
    logits = torch.zeros(50, 31)
    first = Chooser(seed=3)(logits)
    assert torch.equal(first, Chooser(seed=3)(logits))
    assert not torch.equal(first, Chooser(seed=4)(logits))


@pytest.mark.parametrize("options", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}], ids=str)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="temperature and top-k must be 0 or more"):
        Chooser(**options)


def test_each_row_draws_the_same_as_with_its_own_seed():
    logits = torch.randn(4, 31)
    together = Chooser(seed=3)(logits, rows=[2, 0, 7, 1])
    alone = [
        Chooser(seed=3 + row)(one[None]) for one, row in zip(logits, (2, 0, 7, 1), strict=True)
    ]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_logits_that_are_not_finite_are_refused(temperature):
    with pytest.raises(ValueError, match="logits are not finite"):
        Chooser(temperature)(torch.tensor([[0.0, float("nan")]]))
