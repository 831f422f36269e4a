"""Laws of the scores of recall."""

import math

import pytest
import torch
import torch.nn.functional as F

from tttvideo.backbone import Backbone, BackboneConfig
from tttvideo.measures.recall import score_answers


CONFIG = BackboneConfig(vocab_size=11, width=16, depth=2, heads=2, mlp_width=24)


def scored():
    """A model in float64, tokens (3, 40), the number of each one's answer, and spans by answer."""
    torch.manual_seed(0)
    model = Backbone(CONFIG).double()
    tokens = torch.randint(11, (3, 40))
    spans = [(0, 3, 5), (2, 17, 18), (0, 30, 33), (1, 15, 18), (1, 39, 40)]
    answers = torch.full_like(tokens, -1)
    for number, (row, start, end) in enumerate(spans):
        answers[row, start:end] = number
    return model, tokens, answers, spans


@pytest.mark.parametrize("chunk", [1, 16, 1000])
def test_scores_in_chunks_are_those_of_one_forward_pass(chunk):
    model, tokens, answers, spans = scored()
    with torch.no_grad():
        logits, _ = model(tokens)
    row, place, _ = spans[1]
    tokens[row, place] = logits[row, place - 1].argmax()  # one right answer
    with torch.no_grad():
        logits = model(tokens)[0].double()
    exact, bits = score_answers(model, tokens, answers, chunk)
    for number, (row, start, end) in enumerate(spans):
        truth, guess = tokens[row, start:end], logits[row, start - 1 : end - 1]
        cost = F.cross_entropy(guess, truth) / math.log(2)
        assert bits[number].item() == pytest.approx(cost.item(), rel=1e-5)
        assert exact[number].item() == bool((guess.argmax(-1) == truth).all())
    assert exact.any() and not exact.all()


def test_tokens_after_a_text_change_no_score():
    model, tokens, answers, _ = scored()
    longer = torch.cat((tokens, torch.randint(11, (3, 7))), dim=1)
    marks = torch.cat((answers, torch.full((3, 7), -1)), dim=1)
    for plain, padded in zip(
        score_answers(model, tokens, answers), score_answers(model, longer, marks), strict=True
    ):
        torch.testing.assert_close(plain, padded)


def test_answers_that_cannot_be_scored_are_refused():
    model, tokens, answers, _ = scored()
    first = answers.clone()
    first[0, 0] = 1
    for wrong in (answers[:, :-1], torch.full_like(answers, -1), first):
        with pytest.raises(ValueError, match="none at a first token"):
            score_answers(model, tokens, wrong)
