"""Laws of tables whose rows share what the digits of their tokens have in common."""

import torch
from torch import nn

from tttvideo.video.frame_tokenizer import FSQ
from tttvideo.video.shared_digits import digit_pairs, fold_digits, share_digits


LEVELS = 4, 3, 5


def test_tokens_with_two_digits_alike_share_a_row_and_others_share_none():
    digits = FSQ(LEVELS).to_codes(torch.arange(60)).T
    alike = (digits[:, :, None] == digits[:, None]).sum(0)  # (60, 60)
    pairs = digit_pairs(LEVELS)
    torch.testing.assert_close(pairs @ pairs.T, (alike * (alike - 1) / 2).float())


def test_a_step_for_one_token_moves_those_like_it_and_no_others():
    table = nn.Embedding(61, 6)  # a row more than there are tokens
    share_digits([table], LEVELS)
    before = table.weight.detach().clone()
    table(torch.tensor([17])).sum().backward()
    with torch.no_grad():
        for parameter in table.parameters():
            parameter -= 0.1 * parameter.grad
        moved = (table.weight != before).any(1)
    pairs = digit_pairs(LEVELS)
    assert torch.equal(moved[:60], (pairs @ pairs[17]) > 0) and not moved[60]


def test_folding_keeps_the_weights_and_leaves_plain_tables():
    tables = nn.Embedding(61, 6), nn.Linear(6, 60, bias=False)
    share_digits(tables, LEVELS)
    before = [table.weight.detach().clone() for table in tables]
    fold_digits(tables, LEVELS)
    assert all(torch.equal(t.weight, w) for t, w in zip(tables, before, strict=True))
    assert [name for t in tables for name, _ in t.named_parameters()] == ["weight", "weight"]


def test_a_code_of_one_digit_has_nothing_to_share():
    table = nn.Embedding(8, 6)
    share_digits([table], (8,))
    assert [name for name, _ in table.named_parameters()] == ["weight"]
