"""Reading: tokens in chunks with the state carried on, and the cost of a token in nats.

Memory grows with the length of a text only as much as the state of its mixers does.

B batch, T tokens, t tokens of a chunk, C width, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .backbone import Backbone
from .padding import AnyState, read_rows


CHUNK = 1024  # tokens of a row that one call reads
LOGITS = 1 << 24  # numbers, at most, in the logits of one call


def read(
    backbone: Backbone,
    tokens: Tensor,
    state: AnyState | None = None,
    chunk: int = CHUNK,
    real: Tensor | None = None,
    blocks: Sequence[Callable[..., Any]] | None = None,
) -> Iterator[tuple[int, Tensor, Any]]:
    """Read tokens (B, T), integers on any device, from `state` on, `chunk` tokens of a row a call.

    real: which tokens are no padding, bool (B, T), see `read_rows`; None: all. blocks: as in
        `Backbone.features`.
    Yields, for each chunk, the index of its first token, the inputs (B, t, C) of the head and the
    state after the chunk; nothing for T = 0.
    """
    device, after = backbone.embedding.weight.device, cast(Any, state)
    for start in range(0, tokens.shape[1], chunk):
        part = tokens[:, start : start + chunk].to(device)
        part = part if part.is_floating_point() else part.long()
        if real is None:
            hidden, after = backbone.features(part, after, blocks)
        else:
            hidden, after = read_rows(backbone, part, real[:, start : start + chunk], after, blocks)
        yield start, hidden, after


def score_hidden(backbone: Backbone, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Score targets (...) with the inputs (..., C) of the head; see `score_logits`.

    Logits are made of a few tokens at a time.
    """
    size = max(1, LOGITS // backbone.config.vocab_size)
    rows, wanted = hidden.flatten(0, -2).split(size), targets.to(hidden.device).flatten()
    both = zip(rows, wanted.split(size), strict=True)
    nats, greedy = zip(*(score_logits(backbone.head(h), t) for h, t in both), strict=True)
    return torch.cat(nats).view(targets.shape), torch.cat(greedy).view(targets.shape)


def score_logits(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The cost of targets (N,) integers in nats, float64, and whether each has the largest logit.

    The cost is -log p by logits (N, V).
    """
    targets = targets.long()
    nats = F.cross_entropy(logits, targets, reduction="none").double()
    return nats, logits.argmax(-1) == targets
