"""Recall by the number of cells, over the seeds of a memory, and where half is recalled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .document_stats import Estimate, ratio


@dataclass(frozen=True)
class MemoryCurve:
    """The runs of one memory, a record of `capacity.measure` for each seed."""

    label: str
    runs: list[dict[str, Any]]

    @property
    def cells(self) -> list[int]:
        return [int(cells) for cells in self.runs[0]["recall"]]

    @property
    def associations(self) -> int | None:
        """H D: keys that a linear memory of this shape tells apart; None for one without keys."""
        shape = self.runs[0]["shape"]
        return shape and shape["heads"] * shape["key"]

    def estimate(self, state: str, what: str, cells: int) -> Estimate:
        """Mean over the seeds of the bits or the accuracy with a state: own, other or fresh."""
        found = [run["recall"][str(cells)][state][what] for run in self.runs]
        return ratio(np.array(found, float), np.ones(len(found)))  # null, not finite, is NaN

    def means(self, state: str, what: str) -> list[float]:
        return [self.estimate(state, what, cells).value for cells in self.cells]

    def half(self, colours: int) -> float:
        """Cells at which the share of right cells falls below half way from guessing to all.

        Between sizes on a line over log2 of the cells; 0 where the smallest world is below, and
        infinite where the largest is above.
        """
        return crossing(self.cells, self.means("own", "accuracy"), (1 + 1 / colours) / 2)


def crossing(xs: Sequence[int], ys: Sequence[float], level: float) -> float:
    """The x at which y first falls below a level, interpolated over log x."""
    below = [n for n, y in enumerate(ys) if not y >= level]
    if not below:
        return math.inf
    n = below[0]
    if n == 0:
        return 0.0
    share = (ys[n - 1] - level) / (ys[n - 1] - ys[n])
    return xs[n - 1] * (xs[n] / xs[n - 1]) ** share


def curves(runs: list[dict[str, Any]]) -> list[MemoryCurve]:
    """One for each memory, in the order in which they were first run."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        found.setdefault(run["label"], []).append(run)
    return [MemoryCurve(label, of_label) for label, of_label in found.items()]
