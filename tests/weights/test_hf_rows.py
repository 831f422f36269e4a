"""Laws of rows of different lengths inside transformers: each is as if it were alone."""

import pytest
import torch

from helpers.exported import EACH_BOTH, LINEAR, some_tokens


LENGTHS = (9, 4, 13)
CLOSE = dict(rtol=1e-4, atol=1e-5)
PAD = 30


@pytest.fixture(params=["left", "right"])
def side(request):
    return request.param


def rows():
    return list(some_tokens(sum(LENGTHS)).split(LENGTHS))


def padded(side, rows, fill=PAD):
    """Tokens (B, T) and their mask."""
    tokens = torch.nn.utils.rnn.pad_sequence(rows, True, fill, padding_side=side)
    ones = [torch.ones_like(row) for row in rows]
    return tokens, torch.nn.utils.rnn.pad_sequence(ones, True, 0, padding_side=side)


@EACH_BOTH
def test_each_row_has_the_logits_and_the_loss_of_that_row_alone(both, side):
    _, model = both
    tokens, mask = padded(side, rows())
    alone = [model(row[None], labels=row[None]) for row in rows()]
    targets = torch.tensor([length - 1.0 for length in LENGTHS])
    loss = (torch.stack([one.loss for one in alone]) * targets).sum() / targets.sum()
    ignored = tokens.masked_fill(mask == 0, -100)
    for labels in (tokens, ignored):
        output = model(tokens, attention_mask=mask, labels=labels)
        torch.testing.assert_close(output.loss, loss, **CLOSE)
        for one, logits, real in zip(alone, output.logits, mask.bool(), strict=True):
            torch.testing.assert_close(logits[real], one.logits[0], **CLOSE)
    loss.backward()
    wanted = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    output.loss.backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, wanted[name], rtol=1e-3, atol=1e-5, msg=name)


@EACH_BOTH
def test_a_state_has_not_read_its_padding(both, side):
    _, model = both
    (tokens, mask), (others, _) = padded(side, rows()), padded(side, rows(), fill=0)
    more = some_tokens(3, 5)
    output = model(tokens, attention_mask=mask)
    assert torch.equal(model(others, attention_mask=mask).logits, output.logits)
    assert output.cache.get_seq_length() == 13
    assert output.cache.read.tolist() == list(LENGTHS)
    whole = torch.cat((mask, torch.ones_like(more)), dim=1)
    for option in (None, whole, whole[:, -5:]):
        then = model(more, attention_mask=option, cache=output.cache)
        for row, rest, logits in zip(rows(), more, then.logits, strict=True):
            wanted = model(torch.cat((row, rest))[None]).logits[0, -5:]
            torch.testing.assert_close(logits, wanted, **CLOSE)
    assert then.cache.read.tolist() == [length + 5 for length in LENGTHS]


@LINEAR
def test_padding_is_read_in_parts_like_the_rest(both, side, monkeypatch):
    _, model = both
    tokens, mask = padded(side, [*rows(), some_tokens(3)])
    whole = model(tokens, attention_mask=mask)
    monkeypatch.setattr("tttvideo.hf.CHUNK", 4)
    with torch.no_grad():
        parts = model(tokens, attention_mask=mask)
    torch.testing.assert_close(parts.logits, whole.logits, **CLOSE)
    assert parts.cache.read.tolist() == [*LENGTHS, 3]


@EACH_BOTH
def test_prompts_of_different_lengths_are_continued_as_each_alone(both):
    check_continued(both[1])


@LINEAR
def test_beams_of_prompts_of_different_lengths_carry_their_own_states(both):
    check_continued(both[1], num_beams=3)


def check_continued(model, **beams):
    tokens, mask = padded("left", rows())
    options = dict(max_new_tokens=7, do_sample=False, **beams)
    together = model.generate(tokens, attention_mask=mask, **options)
    for row, chosen in zip(rows(), together, strict=True):
        assert torch.equal(chosen[-7:], model.generate(row[None], **options)[0, -7:])


@LINEAR
def test_generation_goes_on_from_a_cache_of_rows_of_different_lengths(both):
    _, model = both
    tokens, mask = padded("left", rows())
    options = dict(do_sample=False, return_dict_in_generate=True)
    whole = model.generate(tokens, attention_mask=mask, max_new_tokens=9, **options).sequences
    first = model.generate(tokens, attention_mask=mask, max_new_tokens=4, **options)
    mask = torch.cat((mask, mask.new_ones(3, 4)), dim=1)
    then = model.generate(
        first.sequences, attention_mask=mask, cache=first.cache, max_new_tokens=5, **options
    )
    assert torch.equal(then.sequences, whole)


@LINEAR
def test_masks_that_a_state_cannot_follow_are_refused(both):
    _, model = both
    tokens, mask = padded("right", rows())
    with pytest.raises(ValueError, match="a prompt ends with padding.*padding_side = 'left'"):
        model.generate(tokens, attention_mask=mask, max_new_tokens=2)
    mask[0, 3] = 0
    with pytest.raises(ValueError, match="padding between the tokens of 1 rows"):
        model(tokens, attention_mask=mask)
    with pytest.raises(ValueError, match="excludes all 13 tokens of all 3 rows"):
        model(tokens, attention_mask=mask * 0)
    with pytest.raises(ValueError, match=r"\(3, 12\); it must be \(3, 13\)"):
        model(tokens, attention_mask=mask[:, 1:])
    with pytest.raises(ValueError, match=r"\(3, 1, 13, 13\); it must be \(3, 13\)"):
        model(tokens, attention_mask=torch.ones(3, 1, 13, 13))


@LINEAR
def test_positions_are_the_states_own(both, side):
    _, model = both
    tokens, mask = padded(side, rows())
    wanted = model(tokens, attention_mask=mask)
    counted = (mask.cumsum(1) - 1).clamp_min(0)
    for positions in (torch.arange(13), torch.arange(13)[None], counted, counted - 1 + mask):
        output = model(tokens, attention_mask=mask, position_ids=positions)
        assert torch.equal(output.logits, wanted.logits)
    more, after = some_tokens(3, 5), torch.tensor(LENGTHS)[:, None] + torch.arange(5)
    for positions in (after, torch.arange(13, 18)):
        model(more, cache=wanted.cache, position_ids=positions)
    for positions in (torch.arange(5), after + 1, after[:, :4], after[None]):
        with pytest.raises(ValueError, match="position_ids are not 0, 1, 2, ... in each row"):
            model(more, cache=wanted.cache, position_ids=positions)
