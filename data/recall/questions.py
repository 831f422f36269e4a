"""The questions of an evaluation, and their tokens.

Each task has a map: a column for each length, a row for each depth, number of pairs or of hops.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tttvideo.data.text.tokenizer import Tokenizer

from .texts import (
    DIGITS,
    Haystack,
    Measure,
    NoRoom,
    Sample,
    byte_length,
    drawn,
    mqar,
    needle,
    variables,
)


PAIRS, HOPS = (1, 2, 4, 8), (0, 1, 2, 3)
CHAINS = 2  # of variables in a text, one of which is asked for
TASKS = {"needle": "depth", "mqar": "pairs", "variables": "hops"}
"""The tasks, and what their maps' rows are."""


@dataclass(frozen=True)
class Cell:
    task: str
    length: int
    row: float
    """depth from 0 to 1, pairs, or hops"""
    samples: tuple[Sample, ...]
    """Empty where the length has no room."""


@dataclass(frozen=True)
class Questions:
    lengths: Sequence[int]
    """of the texts, as `measure` counts"""
    depths: int = 5
    """places of the needle, evenly from start to end"""
    samples: int = 10
    """texts per cell"""
    distractors: int = 3
    """needles at random depths that nobody asks for"""
    seed: int = 0
    measure: Measure = field(default=byte_length, repr=False)
    haystack: Haystack = field(default=drawn, repr=False)

    def rows(self, task: str) -> tuple[float, ...]:
        depths = tuple(np.linspace(0, 1, self.depths).tolist())
        return {"needle": depths, "mqar": PAIRS, "variables": HOPS}[task]

    def __len__(self) -> int:
        """Cells of all tasks."""
        return len(self.lengths) * sum(len(self.rows(task)) for task in TASKS)

    def cells(self) -> Iterator[Cell]:
        """Every cell, with texts that depend on nothing but the seed and the cell.

        Raises NoRoom for lengths among which none has room for the least of a task.
        """
        for task in TASKS:
            least = min(self.rows(task))
            try:
                self.draw(task, least, max(self.lengths), (self.seed,))
            except NoRoom as error:
                raise NoRoom(f"no length has room for the task {task}: {error}") from error
        for number, task in enumerate(TASKS):
            for row, value in enumerate(self.rows(task)):
                for length in self.lengths:
                    seeds = [(self.seed, number, row, length, n) for n in range(self.samples)]
                    try:
                        samples = tuple(self.draw(task, value, length, seed) for seed in seeds)
                    except NoRoom:
                        samples = ()
                    yield Cell(task, length, value, samples)

    def draw(self, task: str, row: float, length: int, seed: tuple[int, ...]) -> Sample:
        rng = np.random.default_rng(seed)
        around = {"measure": self.measure, "haystack": self.haystack}
        if task == "needle":
            depths = [row, *rng.random(self.distractors)]
            return needle(rng, length, depths, **around)
        if task == "mqar":
            return mqar(rng, length, int(row), **around)
        return variables(rng, length, int(row), CHAINS, **around)


def chance(task: str, row: float, distractors: int) -> float:
    """Share of exact answers of whoever repeats any of the told values.

    It is the right one of n, or else, as values are drawn, sometimes one equal to it.
    """
    told = {"needle": 1 + distractors, "mqar": int(row), "variables": CHAINS}[task]
    return 1 / told + (1 - 1 / told) * 10.0 ** -DIGITS[task]


def encode(sample: Sample, tokenizer: Tokenizer) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Tokens of the text, and for each answer its first token and last plus one.

    A token that holds a part of an answer belongs to it. Raises ValueError for a tokenizer whose
    tokens do not stand for exactly the text's bytes, but for a space before the first.
    """
    tokens = np.asarray(tokenizer.encode(sample.text), np.int64)
    ends = np.cumsum(np.asarray(tokenizer.byte_lengths(), np.int64)[tokens])
    size = byte_length(sample.text)
    if ends[-1] - size not in (0, 1):
        raise ValueError(
            f"this tokenizer makes {ends[-1]} bytes of a text of {size}; recall needs one that "
            "keeps every byte"
        )
    ends -= ends[-1] - size
    first = np.searchsorted(ends, [a.start for a in sample.answers], side="right")
    last = np.searchsorted(ends, [a.end for a in sample.answers], side="left")
    return tokens, [(int(a), int(b) + 1) for a, b in zip(first, last, strict=True)]


def batch(
    samples: Sequence[Sample], tokenizer: Tokenizer, bos: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (B, T), from BOS on if there is one, and the number of each one's answer, or -1.

    Answers are numbered through all samples; shorter texts are followed by zeros.
    """
    encoded = [encode(sample, tokenizer) for sample in samples]
    begin = int(bos is not None)
    size = begin + max(len(tokens) for tokens, _ in encoded)
    rows, answers = np.zeros((len(samples), size), np.int64), np.full((len(samples), size), -1)
    if bos is not None:
        rows[:, 0] = bos
    count = 0
    for row, marks, (tokens, spans) in zip(rows, answers, encoded, strict=True):
        row[begin : begin + len(tokens)] = tokens
        for first, last in spans:
            marks[begin + first : begin + last] = count
            count += 1
    return rows, answers
