"""Lanes: which window each lane of a batch reads at each step of an epoch.

A run is the windows of one video in order, or all windows of text. Runs are dealt to lanes whole,
and a lane reads its runs one after the other, each to its end. Where there are fewer runs than
lanes, as of text, the longest are cut into equal parts, at places that differ between epochs.

Each window is read once in an epoch. The lanes end at different steps, the last one after the most
windows that any has; the steps before that have the lanes that remain.

R runs of a lane.
"""

import heapq
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Lane:
    """The runs, or parts of runs, of one lane in their order."""

    firsts: np.ndarray
    """(R,) the first window of each run"""
    counts: np.ndarray
    """(R,) the windows of the run"""
    offsets: np.ndarray
    """(R,) the windows of the run before those that the lane reads; after its last comes its first
    """
    ends: np.ndarray
    """(R,) the steps of the lane by the end of each"""

    def __len__(self) -> int:
        return int(self.ends[-1])

    def window(self, step: int) -> tuple[int, bool]:
        """The number of the window at a step, and whether it needs a fresh state."""
        run = int(np.searchsorted(self.ends, step, "right"))
        begin = self.ends[run - 1] if run else 0
        place = (self.offsets[run] + step - begin) % self.counts[run]
        return int(self.firsts[run] + place), bool(step == begin or place == 0)


def deal_lanes(firsts: np.ndarray, count: int, random: np.random.Generator) -> list[Lane]:
    """Deal the windows to `count` lanes, evenly; each lane shuffles its runs.

    Returns: the lanes, the longest first; their lengths are the same for every `random`.

    firsts: (windows,) True for the first window of each run; `count` is at most their number.
    """
    begins = np.flatnonzero(firsts)
    counts = np.diff([*begins, len(firsts)])
    run, offsets, lengths = cut(counts, count, random)
    orders = [random.permutation(own) for own in deal(lengths, random.random(len(run)), count)]
    made = [
        Lane(begins[run[own]], counts[run[own]], offsets[own], lengths[own].cumsum())
        for own in orders
    ]
    return sorted(made, key=len, reverse=True)


def deal(lengths: np.ndarray, ties: np.ndarray, count: int) -> list[list[int]]:
    """The numbers of the items that each of `count` lists gets: the longest item that is left goes
    to the list with the least length; `ties` order items of the same length.
    """
    dealt: list[list[int]] = [[] for _ in range(count)]
    lists = [(0, number) for number in range(count)]
    for item in np.lexsort((ties, -lengths)).tolist():
        length, number = lists[0]
        dealt[number].append(item)
        heapq.heapreplace(lists, (length + int(lengths[item]), number))
    return dealt


def cut(
    counts: np.ndarray, least: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut runs of `counts` windows until there are at least `least` parts.

    Returns: of each part its run, the windows of the run before it, and its length.
    """
    parts = np.ones(len(counts), dtype=np.int64)
    while parts.sum() < least:
        parts[np.argmax(counts / parts)] += 1
    run = np.repeat(np.arange(len(counts)), parts)
    part = np.arange(len(run)) - np.repeat(parts.cumsum() - parts, parts)
    begin, end = (counts[run] * p // parts[run] for p in (part, part + 1))
    shift = random.integers(counts) * (parts > 1)
    return run, (shift[run] + begin) % counts[run], end - begin
