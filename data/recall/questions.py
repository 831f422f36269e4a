"""The texts and questions of a recall evaluation, and their tokens.

Each task has a map: a column per length; a row per depth, number of pairs, or number of hops.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from tttvideo.data.text.tokenizer import Tokenizer

from .texts import (
    DIGITS,
    Haystack,
    Measure,
    NoRoom,
    Sample,
    byte_length,
    drawn_haystack,
    hide_facts,
    mqar,
    needle,
    variables,
)


PAIRS, HOPS = (1, 2, 4, 8), (0, 1, 2, 3)
CHAINS = 2  # of variables in a text; the question is about one of them
TASKS = {"needle": "depth", "mqar": "pairs", "variables": "hops"}
"""The tasks, and the meaning of the rows of their maps."""


@dataclass(frozen=True)
class Cell:
    task: str
    length: int
    row: float
    """depth from 0 to 1, pairs, or hops"""
    samples: tuple[Sample, ...]
    """empty if the length has no room"""


@dataclass(frozen=True)
class Questions:
    lengths: Sequence[int]
    """of the texts, as `measure` counts"""
    depths: int = 5
    """number of places of the needle, evenly spaced from start to end"""
    samples: int = 10
    """texts per cell"""
    distractors: int = 3
    """needles at random depths without a question"""
    seed: int = 0
    measure: Measure = field(default=byte_length, repr=False)
    haystack: Haystack = field(default=drawn_haystack, repr=False)

    def row_values(self, task: str) -> tuple[float, ...]:
        depths = tuple(np.linspace(0, 1, self.depths).tolist())
        return {"needle": depths, "mqar": PAIRS, "variables": HOPS}[task]

    def __len__(self) -> int:
        """The number of cells of all tasks."""
        return len(self.lengths) * sum(len(self.row_values(task)) for task in TASKS)

    def cells(self) -> Iterator[Cell]:
        """Every cell; its texts depend on the seed and the cell alone.

        Raises: NoRoom if no length has room for the smallest sample of a task.
        """
        self.check_room()
        for number, task in enumerate(TASKS):
            for row, value in enumerate(self.row_values(task)):
                for length in self.lengths:
                    seeds = [(self.seed, number, row, length, n) for n in range(self.samples)]
                    samples: tuple[Sample, ...] = ()
                    with suppress(NoRoom):
                        samples = tuple(self.draw(task, value, length, seed) for seed in seeds)
                    yield Cell(task, length, value, samples)

    def check_room(self) -> None:
        for task in TASKS:
            try:
                self.draw(task, min(self.row_values(task)), max(self.lengths), (self.seed,))
            except NoRoom as error:
                raise NoRoom(f"no length has room for the task {task}: {error}") from error

    def draw(self, task: str, row: float, length: int, seed: tuple[int, ...]) -> Sample:
        """A text of a task; the same arguments draw the same text."""
        rng = np.random.default_rng(seed)
        if task == "needle":
            plan = needle(rng, [row, *rng.random(self.distractors)])
        elif task == "mqar":
            plan = mqar(rng, int(row))
        else:
            plan = variables(rng, int(row), CHAINS)
        return hide_facts(rng, length, plan, self.measure, self.haystack)


def chance(task: str, row: float, distractors: int) -> float:
    """The expected share of exact answers of a reader that repeats a random value of the text.

    It picks the right one of n values, or a wrong one that is equal to it.
    """
    values = {"needle": 1 + distractors, "mqar": int(row), "variables": CHAINS}[task]
    return 1 / values + (1 - 1 / values) * 10.0 ** -DIGITS[task]


def encode_sample(sample: Sample, tokenizer: Tokenizer) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The tokens of a text, and for each answer its first token and the one after its last.

    A token that holds a part of an answer belongs to it.
    Raises: ValueError for a tokenizer whose tokens do not add up to the text's bytes, excluding a
    space before the first.
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


def encode_batch(
    samples: Sequence[Sample], tokenizer: Tokenizer, bos: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (B, T), after BOS if there is one, and (B, T) the index of each token's answer or -1.

    Answers are numbered over all samples; zeros follow shorter texts.
    """
    encoded = [encode_sample(sample, tokenizer) for sample in samples]
    begin = int(bos is not None)
    size = begin + max(len(tokens) for tokens, _ in encoded)
    rows, answers = np.zeros((len(samples), size), np.int64), np.full((len(samples), size), -1)
    rows[:, :begin] = bos or 0
    number = count()
    for row, marks, (tokens, places) in zip(rows, answers, encoded, strict=True):
        row[begin : begin + len(tokens)] = tokens
        for first, last in places:
            marks[begin + first : begin + last] = next(number)
    return rows, answers
