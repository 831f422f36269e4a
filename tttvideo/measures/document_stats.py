"""Averages over documents, with their uncertainty, and bins of token indices.

Tokens of one document depend on one another, so documents count as independent, and tokens do not:
every error here is one over documents.

D documents, T tokens of each, K bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t


FIRST_BIN = 16  # tokens; averages of smaller bins would be too noisy


@dataclass(frozen=True)
class Estimate:
    """A mean over documents and its standard error; None for a single document."""

    value: float
    error: float | None
    documents: int

    @property
    def margin(self) -> float | None:
        """Half the width of the 95 % interval, by Student's t."""
        if self.error is None:
            return None
        return float(student_t.ppf(0.975, self.documents - 1)) * self.error

    @property
    def z(self) -> float | None:
        """The value in standard errors."""
        return self.value / self.error if self.error else None


def ratio(amounts: np.ndarray, sizes: np.ndarray) -> Estimate:
    """Sum of amounts over sum of sizes, such as bits over bytes, (D,) each, one for a document.

    The error is that of a ratio to first order; for documents of one size it is the standard error
    of the mean of their means. Documents of size 0 do not count.
    """
    amounts, sizes = (np.asarray(x, float)[np.asarray(sizes) > 0] for x in (amounts, sizes))
    D = len(sizes)
    if not D:
        return Estimate(math.nan, None, 0)
    value = amounts.sum() / sizes.sum()
    left = amounts - value * sizes
    error = math.sqrt(D / (D - 1) * (left @ left)) / sizes.sum() if D > 1 else None
    return Estimate(float(value), error, D)


def log_bins(length: int) -> np.ndarray:
    """Edges (K + 1,) of bins over the token indices 1 to `length`, two for each doubling."""
    edges = [1]
    edge = float(FIRST_BIN)
    while round(edge) < length:
        edges.append(round(edge))
        edge *= math.sqrt(2)
    return np.array([*edges, length + 1])


@dataclass(frozen=True)
class Tally:
    """Sums (D, K) over each document's tokens of each bin.

    nats and tokens are of every token except BOS; text_nats and bytes only of tokens that stand
    for bytes, so EOS is excluded too.
    """

    nats: np.ndarray
    tokens: np.ndarray
    text_nats: np.ndarray
    bytes: np.ndarray

    def nats_per_token(self, bins: slice | int = slice(None)) -> Estimate:
        return ratio(self.over(self.nats, bins), self.over(self.tokens, bins))

    def bits_per_byte(self, bins: slice | int = slice(None)) -> Estimate:
        return ratio(self.over(self.text_nats, bins) / math.log(2), self.over(self.bytes, bins))

    def minus(self, other: Tally) -> Tally:
        """Costs minus those of the same tokens in `other`: averages are of paired differences."""
        assert (self.tokens == other.tokens).all()
        nats, text = self.nats - other.nats, self.text_nats - other.text_nats
        return Tally(nats, self.tokens, text, self.bytes)

    def grouped(self, owners: np.ndarray, D: int) -> Tally:
        """The rows of each of D owners summed."""
        sums = [np.zeros((D, x.shape[1])) for x in self.columns]
        for total, column in zip(sums, self.columns, strict=True):
            np.add.at(total, owners, column)
        return Tally(*sums)

    @staticmethod
    def mean(tallies: list[Tally]) -> Tally:
        """The mean cost of the same tokens over several models, such as seeds."""
        return Tally(*(np.mean(x, axis=0) for x in zip(*(t.columns for t in tallies), strict=True)))

    @staticmethod
    def stack(tallies: list[Tally]) -> Tally:
        """The documents of one tally after those of another."""
        return Tally(*(np.concatenate(x) for x in zip(*(t.columns for t in tallies), strict=True)))

    @property
    def columns(self) -> tuple[np.ndarray, ...]:
        return self.nats, self.tokens, self.text_nats, self.bytes

    @staticmethod
    def over(sums: np.ndarray, bins: slice | int) -> np.ndarray:
        return sums[:, bins].reshape(len(sums), -1).sum(axis=1)


def tally(
    costs: np.ndarray,
    targets: np.ndarray,
    byte_lengths: np.ndarray,
    bos: int | None,
    edges: np.ndarray | None = None,
) -> Tally:
    """Sum costs (D, T) of targets (D, T) by the bins of `edges`, or over each row.

    The first column is token index 1. byte_lengths (V,): bytes of text of each token.
    """
    cuts = [0] if edges is None else edges[:-1] - 1
    counted = targets != bos if bos is not None else np.ones(targets.shape, bool)
    size = byte_lengths[targets]
    columns = (costs * counted, counted, costs * (size > 0), size)
    return Tally(*(np.add.reduceat(x.astype(float), cuts, axis=1) for x in columns))
