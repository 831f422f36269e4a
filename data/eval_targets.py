"""Which tokens of a corpus are read to measure a model: documents, targets in them, contexts.

D documents, N targets, P tokens of a piece.
"""

from collections.abc import Sequence

import numpy as np


def documents(
    starts: np.ndarray, total: int, length: int, most: int, join: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Begins and sizes (D,) of at most `most` documents of `length` tokens or more.

    Where more are so long they are taken evenly from all of them. With `join` a document is what
    begins with one and goes on through the next ones for `length` tokens. Raises ValueError where
    none is long enough.
    """
    begins, sizes = joined(starts, total, length) if join else (starts, np.diff([*starts, total]))
    long = np.flatnonzero(sizes >= length)
    if not len(long):
        longest = total - int(starts[0]) if join else int(sizes.max(initial=0))
        hint = "" if join else ", or --join to read documents one after the other"
        raise ValueError(
            f"no document has {length:,} tokens, the longest has {longest:,}; choose --length "
            f"{max(longest - 1, 1)} or less{hint}"
        )
    if len(long) > most:
        long = long[np.linspace(0, len(long) - 1, most).round().astype(int)]
    return begins[long], sizes[long]


def joined(starts: np.ndarray, total: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Begins and sizes of streams of `length` tokens that begin with a document, none shared."""
    begins, place = [], 0
    while (i := np.searchsorted(starts, place)) < len(starts) and starts[i] + length <= total:
        begins.append(int(starts[i]))
        place = begins[-1] + length
    return np.array(begins, np.int64), np.full(len(begins), length, np.int64)


def targets(
    sizes: Sequence[int], context: int, span: int, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Owners and places (N,) of spans with `context` tokens of their document before them.

    At most `most` in a document, as far apart as it allows, and none over another.
    """
    owners, places = [], []
    for owner, size in enumerate(sizes):
        room = int(size) - context - span
        count = min(most, room // span + 1)
        owners += [owner] * count
        places += [context + int(x) for x in np.linspace(0, room, count)]
    return np.array(owners, np.int64), np.array(places, np.int64)


def can_shuffle(owners: np.ndarray) -> bool:
    """Does no owner have more than half of the contexts?"""
    return 2 * int(np.bincount(owners).max()) <= len(owners)


def shuffled(contexts: np.ndarray, owners: np.ndarray, piece: int, seed: int = 0) -> np.ndarray:
    """Contexts (N, c) in which every piece of P tokens is one of another owner's contexts.

    Pieces are counted from the context's end; a shorter first one changes places with other first
    ones. The owners must be such that `can_shuffle`.
    """
    random = np.random.default_rng(seed)
    N, c = contexts.shape
    head = c % piece
    first = contexts[:, :head][strangers(owners, random)]
    rest = contexts[:, head:].reshape(-1, piece)
    rest = rest[strangers(np.repeat(owners, c // piece), random)] if len(rest) else rest
    return np.concatenate([first, rest.reshape(N, -1)], axis=1)


def strangers(owners: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A permutation (N,) by which every item gets one of another owner."""
    assert can_shuffle(owners)
    order, largest = np.argsort(owners, kind="stable"), int(np.bincount(owners).max())
    source = np.empty(len(owners), np.int64)
    source[order] = np.roll(order, largest)  # so nobody has his own; then pairs change at random
    for i, j in random.integers(len(owners), size=(10 * len(owners), 2)):
        if owners[i] != owners[source[j]] and owners[j] != owners[source[i]]:
            source[i], source[j] = source[j], source[i]
    return source


def gather(tokens: object, begins: Sequence[int], length: int) -> np.ndarray:
    """(N, length) int64 tokens from each of `begins` on; zeros after the last token of all."""
    rows = np.zeros((len(begins), length), np.int64)
    for row, begin in zip(rows, begins, strict=True):
        part = tokens[int(begin) : int(begin) + length]
        row[: len(part)] = part
    return rows
