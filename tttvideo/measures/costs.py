"""The cost of texts, token by token: of whole texts, with resets of the state, or after a context.

A cost is the negative log-probability, in nats, of a token given all tokens of its row before it.

N rows, T tokens read of each, S targets.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tttvideo.backbone import Backbone
from tttvideo.progress import Advance
from tttvideo.reading import read, score_hidden


BATCH = 16384


@torch.inference_mode()
def token_costs(
    backbone: Backbone,
    tokens: Tensor,
    last: int | None = None,
    batch: int = BATCH,
    advance: Advance = lambda _: None,
) -> Tensor:
    """Costs (N, S) float64, on the CPU, of the last S tokens of each row, or of all but the first.

    tokens: (N, T + 1) integers on any device; last: S, at most T; batch: most tokens of a call.
    """
    N, T = len(tokens), tokens.shape[1] - 1
    skip = 0 if last is None else T - last
    assert 0 <= skip < T
    costs = torch.empty(N, T - skip, dtype=torch.float64)
    size = max(1, batch // T)
    for rows, into in zip(tokens.split(size), costs.split(size), strict=True):
        for start, hidden, _ in read(backbone, rows[:, :-1], chunk=batch):
            end = start + hidden.shape[1]
            first = max(start, skip)
            if first < end:
                targets = rows[:, first + 1 : end + 1]
                nats, _ = score_hidden(backbone, hidden[:, first - start :], targets)
                into[:, first - skip : end - skip] = nats
            advance(len(rows) * hidden.shape[1])
    return costs


def reset_costs(
    backbone: Backbone,
    tokens: Tensor,
    reset: int,
    batch: int = BATCH,
    advance: Advance = lambda _: None,
) -> Tensor:
    """As `token_costs`, (N, T), with a fresh state before every `reset` tokens that are read."""
    T = tokens.shape[1] - 1
    reset = min(reset, T)
    pieces = -(-T // reset)
    padded = F.pad(tokens, (0, pieces * reset - T))  # tokens after the last target change nothing
    rows = padded.unfold(1, reset + 1, reset).reshape(-1, reset + 1)
    return token_costs(backbone, rows, None, batch, advance).view(len(tokens), -1)[:, :T]
