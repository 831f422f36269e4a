"""Rows of different lengths in one batch: padding is not read, so each row is as if it were alone.

The real tokens of all rows are packed in one row, and each row has a state of its own.

B batch, T tokens with padding, N real tokens of all rows, C width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tttvideo.kernels import Packed

from .backbone import Backbone, BackboneState
from .states import same_structure, stack, unstack


AnyState = BackboneState | Packed[BackboneState]
IGNORED = -100
"""The label of a token that has no loss, as in torch."""


def real_tokens(mask: Tensor | None, batch: int, T: int, seen: int) -> Tensor | None:
    """Which of T tokens are real, bool (B, T), by a mask of them or of all `seen` + T; None: all.

    Raises: ValueError for a mask of another shape, for one with padding between real tokens, and
        where no token is real.
    """
    if mask is None:
        return None
    if mask.ndim != 2 or len(mask) != batch or mask.shape[1] not in (T, seen + T):
        raise ValueError(
            f"attention_mask is {tuple(mask.shape)}; it must be ({batch}, {T}), 1 for a token and "
            "0 for padding, or have the tokens read before in front"
        )
    real = mask[:, mask.shape[1] - T :] != 0
    if real.all():
        return None
    if not real.any():
        raise ValueError(f"attention_mask excludes all {T} tokens of all {batch} rows")
    begins = real.clone()
    begins[:, 1:] &= ~real[:, :-1]
    holes = int((begins.sum(1) > 1).sum())
    if holes:
        raise ValueError(
            f"attention_mask has padding between the tokens of {holes} rows; a state reads its "
            "tokens without gaps: pad a row at its beginning or its end"
        )
    return real


def check_positions(
    positions: Tensor | None, real: Tensor | None, read: Tensor, seen: int, T: int
) -> None:
    """Raise ValueError for positions that are not those at which a state counts its tokens.

    read: (B,), the real tokens of each row so far, out of `seen`. The positions (T,), (1, T) or
    (B, T) may count padding or not, and those of padding are free.
    """
    if positions is None:
        return
    B = len(read)
    real = read.new_ones(B, T, dtype=torch.bool) if real is None else real
    natural = read[:, None] + real.cumsum(1) - 1, seen + torch.arange(T, device=real.device)
    fits = positions.ndim <= 2 and positions.shape in ((T,), (1, T), (B, T))
    if not fits or not any(((positions == n) | ~real).all() for n in natural):
        raise ValueError(
            "position_ids are not 0, 1, 2, ... in each row; a state counts the tokens that it "
            "reads, so give each text a row of its own, and no position_ids"
        )


def real_labels(labels: Tensor, real: Tensor | None) -> Tensor:
    """The labels (B, T), ignored where they are padding, or would be predicted from padding."""
    if real is None:
        return labels
    scored = real.clone()
    scored[:, 1:] &= real[:, :-1]
    return labels.masked_fill(~scored, IGNORED)


def read_rows(
    backbone: Backbone,
    tokens: Tensor,
    real: Tensor,
    state: AnyState | None,
    blocks: Sequence[Callable[..., Any]] | None = None,
) -> tuple[Tensor, AnyState]:
    """As `Backbone.features` of the real tokens; (B, T, C) is 0 at padding, which no state reads.

    tokens: (B, T), or their embeddings (B, T, C). real: bool (B, T).
    state: of a batch, or a Packed of one for each row, whose lengths do not count.
    Returns: the features; the state of a batch where those of the rows have one structure.
    """
    B = len(tokens)
    state = backbone.init_state(B) if state is None else state
    states = list(state.states) if isinstance(state, Packed) else unstack(state, B)
    lengths = real.sum(1).tolist()
    rows = [row for row, length in enumerate(lengths) if length]
    features = backbone.embedding.weight.new_zeros(1, 0, backbone.config.width)
    if rows:
        packed = Packed(tuple(states[row] for row in rows), tuple(lengths[row] for row in rows))
        features, after = backbone.features(tokens[real][None], packed, blocks)
        for row, one in zip(rows, after.states, strict=True):
            states[row] = one
    alike = same_structure(states)
    return spread(features, real), stack(states) if alike else Packed(tuple(states), (1,) * B)


def spread(packed: Tensor, real: Tensor) -> Tensor:
    """(B, T, C) of the real tokens (1, N, C), and 0 at padding."""
    spaced = packed.new_zeros(*real.shape, packed.shape[-1])
    spaced[real] = packed[0]
    return spaced
