"""Estimates over videos of what `measure_length` found, with the verdict on each context.

V videos, C contexts, K bins of frame indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .document_stats import Estimate, ratio
from .length import Result


ALLOWED = 0.01  # more bits after a longer context, as a share of those after the first


@dataclass(frozen=True)
class LengthStats:
    """One model; the seeds of a model are averaged video by video.

    bits: (V, C) per frame. own, other: the same of the first targets, with the own and another
    video's memory; None where a video had no other beside it. bins: (V, K) by the frame index
    that ends a bin.
    """

    contexts: list[int]
    bits: np.ndarray
    own: np.ndarray | None
    other: np.ndarray | None
    ends: list[int]
    bins: np.ndarray

    @classmethod
    def of(cls, batches: Sequence[Sequence[Result]]) -> LengthStats:
        """From the results of the seeds of each batch of videos."""
        first = batches[0][0]

        def table(kind: str) -> np.ndarray | None:
            if not all(seed[kind] for seeds in batches for seed in seeds):
                return None
            return np.concatenate([np.mean([columns(s[kind]) for s in x], 0) for x in batches])

        bits, bins = table("bits"), table("bins")
        assert bits is not None and bins is not None
        contexts, ends = ([int(name) for name in first[kind]] for kind in ("bits", "bins"))
        return cls(contexts, bits, table("own"), table("other"), ends, bins)

    def mean(self, context: int) -> Estimate:
        """Bits per frame after a context, by its place."""
        return over_videos(self.bits[:, context])

    def change(self, context: int) -> Estimate:
        """The bits after a context less those after the first, as a share of these, paired."""
        first = self.bits[:, 0]
        return ratio(self.bits[:, context] - first, first)

    def gain(self, context: int) -> Estimate | None:
        """Bits per frame by which another video's memory is worse than the own one."""
        if self.own is None or self.other is None:
            return None
        return over_videos(self.other[:, context] - self.own[:, context])

    def verdict(self, context: int) -> str:
        """Whether the bits are at most 1 % above those after the first context.

        "trivially": the interval of the memory's gain reaches 0. "untested": no memory was swapped.
        """
        low, high = interval(self.change(context))
        if high > ALLOWED:
            return "fails" if low > ALLOWED else "open"
        gain = self.gain(context)
        if gain is None:
            return "holds, memory untested"
        return "holds" if interval(gain)[0] > 0 else "holds, trivially"


def columns(values: dict[str, list[float]]) -> np.ndarray:
    """(V, names)"""
    return np.array(list(values.values())).T


def over_videos(values: np.ndarray) -> Estimate:
    return ratio(values, np.ones(len(values)))


def interval(estimate: Estimate) -> tuple[float, float]:
    """The 95 % interval; all numbers for a single video."""
    margin = np.inf if estimate.margin is None else estimate.margin
    return estimate.value - margin, estimate.value + margin
