"""Lessons: batches of recall texts to learn from, first short with few facts, then all.

A text states its facts once, and its questions stand at its end, as in the texts that are measured.
The texts of a batch have one length.
"""

from dataclasses import dataclass

import numpy as np

from .texts import (
    ASKS,
    KEYS,
    Plan,
    Sample,
    draw_task,
    hide_facts,
    log_uniform,
    mqar,
    pairs_length,
    training_plan,
)


SHORTEST, FIRST, FEW = 48, 64, 4
"""Bytes of the shortest text, and of the longest at first; most pairs of a text at first."""
SHARES = {"needle": 1, "mqar": 2, "variables": 1}
"""Of the texts."""
GROWN = 0.5
"""Share of the training after which texts are as long as any, with as many pairs."""


@dataclass(frozen=True)
class Lessons:
    length: int = 256
    """Bytes of the longest texts, 96 or more."""
    bytes: int = 2048
    """Of all texts of a batch."""

    def batch(self, rng: np.random.Generator, done: float) -> list[Sample]:
        """The texts of a step when a share of the training is over."""
        grown = min(1.0, done / GROWN)
        longest = round(FIRST * (self.length / FIRST) ** grown)
        length = log_uniform(rng, SHORTEST, longest)
        pairs = round(FEW * (most_pairs(self.length) / FEW) ** grown)
        count = max(1, self.bytes // length)
        return [self.text(rng, length, min(pairs, most_pairs(length))) for _ in range(count)]

    def text(self, rng: np.random.Generator, length: int, pairs: int) -> Sample:
        """A text of a random task, of `pairs` pairs at most."""
        task = draw_task(rng, SHARES)
        plan = pairs_plan(rng, pairs) if task == "mqar" else training_plan(rng, length, task)[0]
        return hide_facts(rng, length, plan)


def pairs_plan(rng: np.random.Generator, most: int) -> Plan:
    """Half of the plans have as many pairs as they may, the others few or many."""
    pairs = most if rng.random() < 0.5 else log_uniform(rng, 1, most)
    return mqar(rng, pairs, keys=KEYS)


def most_pairs(length: int) -> int:
    """Pairs that a text has room for, with up to ASKS questions about them."""
    room = (length - pairs_length(0)) // 4
    return min(room // 2 if room < 2 * ASKS else room - ASKS, len(KEYS))
