"""What a memory is worth, of the records of `measure_memory`: means over videos and seeds.

A run is the record of one checkpoint; runs of one name are seeds of one model. Videos are the same
for all runs, so that differences are paired.

V videos.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .document_stats import Estimate, ratio
from .remembered import GROUPS, OLD


Run = dict[str, Any]

LATER = tuple(name for name, (low, _) in GROUPS.items() if low >= OLD)
"""Groups of the ages from OLD on."""
OLDEST = LATER[-1:]


def columns(run: Run, memory: str, groups: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Bits and tokens (V,) of a memory in all of these groups."""
    sums = run["memories"][memory]
    bits, tokens = (sum(np.array(sums[name][key]) for name in groups) for key in ("bits", "tokens"))
    return np.asarray(bits, float), np.asarray(tokens, float)


def mean_bits(run: Run, memory: str, groups: Sequence[str]) -> Estimate:
    return ratio(*columns(run, memory, groups))


def more_bits(run: Run, memory: str, groups: Sequence[str]) -> Estimate:
    """Bits per token of a memory, less those of the same tokens with the model's own."""
    (bits, tokens), (own, _) = (columns(run, name, groups) for name in (memory, "own"))
    return ratio(bits - own, tokens)


def own_share(run: Run, groups: Sequence[str]) -> Estimate:
    """Bits with the model's own memory over those with another video's."""
    return ratio(columns(run, "own", groups)[0], columns(run, "other", groups)[0])


def gains(run: Run) -> np.ndarray:
    """Bits per token of first sights less those of later ones, (V,); NaN without one of them."""
    means = []
    for name in ("first", "again"):
        bits, tokens = (np.array(run["sights"][name][key], float) for key in ("bits", "tokens"))
        means.append(bits / np.where(tokens > 0, tokens, math.nan))
    return means[0] - means[1]


def later_bits(run: Run) -> Estimate:
    """Bits per token of later sights in the whole videos."""
    again = run["sights"]["again"]
    return ratio(np.array(again["bits"]), np.array(again["tokens"]))


def over_videos(values: Sequence[np.ndarray]) -> Estimate:
    """The mean over videos of the mean over runs, values (V,) of each; NaN does not count."""
    means = np.mean(values, axis=0)
    known = means[~np.isnan(means)]
    return ratio(known, np.ones(len(known)))


def over_seeds(runs: Sequence[Run], measure: Callable[..., Estimate], *what: Any) -> Estimate:
    """The mean of measure(run, *what) over seeds; of a single one, that of its videos."""
    found = [measure(run, *what) for run in runs]
    if len(found) == 1:
        return found[0]
    return ratio(np.array([one.value for one in found]), np.ones(len(found)))


def gains_above(runs: Sequence[Run], control: Sequence[Run]) -> list[np.ndarray]:
    """The gains (V,) of each run less those of the control, the mean of its runs."""
    less = np.mean([gains(run) for run in control], axis=0)
    return [gains(run) - less for run in runs]


def later_above(runs: Sequence[Run], control: Sequence[Run]) -> list[np.ndarray]:
    """Share of the control's bits of later sights (V,) that each run saves."""
    less = np.mean([run["sights"]["again"]["bits"] for run in control], axis=0)
    less[less == 0] = math.nan
    return [1 - np.array(run["sights"]["again"]["bits"]) / less for run in runs]


def seeds_of(values: Sequence[np.ndarray]) -> Estimate:
    """The mean over seeds of the means over videos (V,); NaN does not count."""
    means = np.array([np.nanmean(x) for x in values])
    return ratio(means, np.ones(len(means)))
