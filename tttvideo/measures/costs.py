"""What texts cost a model, token by token: read whole, with its state reset, after some context.

A cost is the negative log-probability, in nats, of a token given all that its row holds before it.
Rows are read in calls of at most `batch` tokens, the state carried on from call to call, and logits
are made of a few tokens at a time: memory grows with a row only as the mixer's own state does.

N rows, T tokens read of each, S targets, V vocabulary.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tttvideo.backbone import Backbone


LOGITS = 1 << 24  # numbers, at most, that the logits of a call take
BATCH = 16384


@torch.inference_mode()
def token_costs(
    backbone: Backbone,
    tokens: Tensor,
    last: int | None = None,
    batch: int = BATCH,
    advance: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """Costs (N, S) float64, on the CPU, of the last S tokens of each row, or of all but the first.

    tokens: (N, T + 1) integers on any device; last: S, at most T; batch: most tokens of a call;
    advance: told how many tokens were read.
    """
    N, T = len(tokens), tokens.shape[1] - 1
    skip = 0 if last is None else T - last
    assert 0 <= skip < T
    device = backbone.embedding.weight.device
    costs = torch.empty(N, T - skip, dtype=torch.float64)
    size = max(1, batch // T)
    for rows, into in zip(tokens.split(size), costs.split(size), strict=True):
        state = None
        for begin in range(0, T, batch):
            part = rows[:, begin : begin + batch + 1].to(device).long()
            hidden, state = backbone.features(part[:, :-1], state)
            first, end = max(0, skip - begin), hidden.shape[1]
            if first < end:
                found = costs_of(backbone, hidden[:, first:], part[:, first + 1 :])
                into[:, begin + first - skip : begin + end - skip] = found
            advance(part[:, 1:].numel())
    return costs


def costs_of(backbone: Backbone, hidden: Tensor, targets: Tensor) -> Tensor:
    """Costs (N, S) of targets (N, S), from what the head reads, hidden (N, S, C)."""
    size = max(1, LOGITS // backbone.config.vocab_size)
    both = zip(hidden.flatten(0, 1).split(size), targets.flatten().split(size), strict=True)
    costs = [F.cross_entropy(backbone.head(h), t, reduction="none") for h, t in both]
    return torch.cat(costs).double().view_as(targets)


def reset_costs(
    backbone: Backbone,
    tokens: Tensor,
    reset: int,
    batch: int = BATCH,
    advance: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """As `token_costs`, (N, T), with a fresh state before every `reset` tokens that are read."""
    T = tokens.shape[1] - 1
    reset = min(reset, T)
    pieces = -(-T // reset)
    padded = F.pad(tokens, (0, pieces * reset - T))  # what is read after the last target is no harm
    rows = padded.unfold(1, reset + 1, reset).reshape(-1, reset + 1)
    return token_costs(backbone, rows, None, batch, advance).view(len(tokens), -1)[:, :T]
