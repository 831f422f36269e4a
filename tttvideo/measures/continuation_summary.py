"""The numbers of a page about continuations, from the records of one checkpoint or of seeds.

A video counts as one sample of every interval: its frames depend on one another.

N videos, n samples of each, H frames of the horizon, F frames of a video.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from .continuations import ContinuationPlan, Record
from .document_stats import Estimate, ratio
from .frechet import frechet_distance
from .memory import ALIVE
from .perception import FRECHET, PAIRS
from .video import BETTER, ERRORS


TRUTHS = "raw", "decoded"
EACH = 32  # frames of their own in the table of bits; later ones are averaged in bins


def summary(records: Sequence[Record], plan: ContinuationPlan) -> dict[str, Any]:
    """All numbers of one checkpoint, of JSON's kinds.

    bits: by_index and ahead, None without tokens. by_horizon: TRUTH / WHO / MEASURE / mean or best,
    lists (H,). overall: the same, means over the horizon with their error over videos. alive: WHO,
    (H,). pairs: NAME / WHO. frechet: NAME / WHO.
    """
    stacked = stack(records)
    found: dict[str, Any] = {"bits": bits_of(records, plan), "by_horizon": {}, "overall": {}}
    for truth in TRUTHS:
        for who in (name.split("/")[0] for name in stacked if name.endswith(f"/{truth}/psnr")):
            kinds = {m: kinds_of(stacked[f"{who}/{truth}/{m}"], m) for m in ERRORS}
            at = found["by_horizon"].setdefault(truth, {})
            at[who] = {m: {k: x.mean(0).tolist() for k, x in kinds[m].items()} for m in ERRORS}
            overall = found["overall"].setdefault(truth, {})
            overall[who] = {m: {k: mean_of(x) for k, x in kinds[m].items()} for m in ERRORS}
    found["alive"] = alive_by_horizon(stacked)
    found["pairs"] = pairs_of(stacked)
    found["frechet"] = frechet_of(stacked)
    found["videos"] = len(stacked["prediction/raw/psnr"])
    found["perceived"] = min(found["videos"], plan.perceived)
    return found


def stack(records: Sequence[Record]) -> Record:
    """The videos of all records in one, excluding bits and pictures; some have no networks."""
    names = dict.fromkeys(name for record in records for name in record)
    return {
        name: np.concatenate([record[name] for record in records if name in record])
        for name in names
        if name != "bits" and not name.startswith("shown/")
    }


def kinds_of(x: np.ndarray, measure: str) -> dict[str, np.ndarray]:
    """(N, H) of values (N, n, H): their mean over samples, and those of the best sample.

    The best sample of a video has the best mean over the horizon, by this measure: it is chosen
    with the truth at hand, which a user does not have.
    """
    mean = x.mean(1)
    if x.shape[1] == 1:
        return {"mean": mean}
    whole = x.mean(2)
    best = whole.argmax(1) if BETTER[measure] is max else whole.argmin(1)
    return {"mean": mean, "best": x[np.arange(len(x)), best]}


def mean_of(x: np.ndarray) -> dict[str, Any]:
    """The mean over videos (N, H) and its 95 % interval."""
    return plain(ratio(x.mean(1), np.ones(len(x))))


def plain(found: Estimate) -> dict[str, Any]:
    return {**asdict(found), "margin": found.margin}


def over_seeds(values: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of several seeds, with an interval over them; that of one seed as it is."""
    if len(values) == 1:
        return values[0]
    return plain(ratio(np.array([x["value"] for x in values]), np.ones(len(values))))


def bits_of(records: Sequence[Record], plan: ContinuationPlan) -> dict[str, Any] | None:
    """Bits per frame by its index, in bins, and by horizon; None without tokens."""
    if any("bits" not in record for record in records):
        return None
    rows = [record["bits"] for record in records]
    longest = max(bits.shape[1] for bits in rows)
    total, videos = np.zeros(longest), np.zeros(longest)
    for bits in rows:
        total[: bits.shape[1]] += bits.sum(0)
        videos[: bits.shape[1]] += len(bits)
    edges = frame_bins(longest)
    ahead = slice(plan.context, plan.context + plan.horizon)
    parts = np.concatenate([bits[:, ahead] for bits in rows])
    sums, counts = (np.add.reduceat(x, edges[:-1]) for x in (total, videos))
    return {
        "first_frame": [int(edge) + 1 for edge in edges[:-1]],
        "by_index": (sums / counts).tolist(),
        "by_horizon": parts.mean(0).tolist(),
        "ahead": mean_of(parts),
    }


def frame_bins(length: int) -> np.ndarray:
    """Edges of bins over frames 0 to `length` - 1: each of the first, then two per doubling."""
    edges = list(range(min(EACH, length)))
    edge = float(EACH)
    while round(edge) < length:
        edges.append(round(edge))
        edge *= math.sqrt(2)
    return np.array([*edges, length])


def alive_by_horizon(stacked: Record) -> dict[str, list[float]]:
    """Share of continuations whose coloured area is near the truth's, by horizon."""
    truth = np.maximum(stacked["area/truth"], 1)
    least, most = ALIVE
    found = {}
    for name, area in stacked.items():
        if name.startswith("area/") and name != "area/truth":
            share = area / truth
            near = (share >= least) & (share <= most)
            found[name.removeprefix("area/")] = near.mean((0, 1)).tolist()
    return found


def pairs_of(stacked: Record) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, Any]] = {}
    for name in PAIRS:
        start = f"pair/{name}/"
        for key in (key for key in stacked if key.startswith(start)):
            found.setdefault(name, {})[key.removeprefix(start)] = mean_of(stacked[key][:, None])
    return found


def frechet_of(stacked: Record) -> dict[str, dict[str, float]]:
    """Distances of each set of clips to the true ones, of two videos or more."""
    found: dict[str, dict[str, float]] = {}
    for name, kind in FRECHET.items():
        start = f"features/{kind}/"
        truth = stacked.get(f"{start}truth")
        if truth is None or len(truth) < 2:
            continue
        for key in (key for key in stacked if key.startswith(start) and key != f"{start}truth"):
            clips, true = (torch.from_numpy(x) for x in (stacked[key], truth))
            found.setdefault(name, {})[key.removeprefix(start)] = frechet_distance(clips, true)
    return found
