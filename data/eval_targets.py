"""Tokens on which a model is evaluated: documents, targets inside them, and their contexts.

D documents, N targets, P tokens of a piece.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


def choose_documents(
    starts: np.ndarray, total: int, length: int, most: int, join: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """First tokens and sizes (D,) of at most `most` documents of `length` tokens or more.

    They are spread evenly over all that are long enough. With `join`, a document and those after
    it count as one, of `length` tokens.
    Raises: ValueError if none is long enough.
    """
    begins, sizes = starts, np.diff([*starts, total])
    if join:
        begins, sizes = join_documents(starts, total, length)
    long = np.flatnonzero(sizes >= length)
    if not len(long):
        longest = total - int(starts[0]) if join else int(sizes.max(initial=0))
        hint = "" if join else ", or --join to read consecutive documents as one"
        raise ValueError(
            f"no document has {length:,} tokens, the longest has {longest:,}; choose --length "
            f"{max(longest - 1, 1)} or less{hint}"
        )
    if len(long) > most:
        long = long[np.linspace(0, len(long) - 1, most).round().astype(int)]
    return begins[long], sizes[long]


def join_documents(starts: np.ndarray, total: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """First tokens and sizes of disjoint streams of `length` tokens from documents' starts."""
    begins, place = [], 0
    while (i := np.searchsorted(starts, place)) < len(starts) and starts[i] + length <= total:
        begins.append(int(starts[i]))
        place = begins[-1] + length
    return np.array(begins, np.int64), np.full(len(begins), length, np.int64)


def place_targets(
    sizes: Sequence[int] | np.ndarray, context: int, span: int, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Owners and places (N,) of targets of `span` tokens with `context` tokens before them.

    An owner is the index of a document, a place the target's first token inside it. A document has
    at most `most` targets, evenly spaced, which do not overlap.
    """
    owners, places = [], []
    for owner, size in enumerate(sizes):
        room = int(size) - context - span
        count = min(most, room // span + 1)
        owners += [owner] * count
        places += [context + int(x) for x in np.linspace(0, room, count)]
    return np.array(owners, np.int64), np.array(places, np.int64)


def can_shuffle(owners: np.ndarray) -> bool:
    """Whether every owner has at most half of the contexts."""
    return 2 * int(np.bincount(owners).max()) <= len(owners)


def shuffle_pieces(
    contexts: np.ndarray, owners: np.ndarray, piece: int, seed: int = 0
) -> np.ndarray:
    """Contexts (N, c) in which every piece of P tokens comes from another owner's contexts.

    Pieces are counted from the context's end; a shorter first piece is exchanged with other first
    pieces. `can_shuffle(owners)` must be true.
    """
    random = np.random.default_rng(seed)
    N, c = contexts.shape
    head = c % piece
    first = contexts[:, :head][permute_across_owners(owners, random)]
    rest = contexts[:, head:].reshape(-1, piece)
    rest = rest[permute_across_owners(np.repeat(owners, c // piece), random)] if len(rest) else rest
    return np.concatenate([first, rest.reshape(N, -1)], axis=1)


def permute_across_owners(owners: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A permutation (N,) that gives every item one of another owner."""
    assert can_shuffle(owners)
    order, largest = np.argsort(owners, kind="stable"), int(np.bincount(owners).max())
    source = np.empty(len(owners), np.int64)
    source[order] = np.roll(order, largest)  # no item keeps its owner
    for i, j in random.integers(len(owners), size=(10 * len(owners), 2)):
        if owners[i] != owners[source[j]] and owners[j] != owners[source[i]]:
            source[i], source[j] = source[j], source[i]
    return source


def read_rows(tokens: Any, begins: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
    """(N, length) int64: the tokens from each of `begins`; zeros after the last token of all."""
    rows = np.zeros((len(begins), length), np.int64)
    for row, begin in zip(rows, begins, strict=True):
        part = tokens[int(begin) : int(begin) + length]
        row[: len(part)] = part
    return rows
