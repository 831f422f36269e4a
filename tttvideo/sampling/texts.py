"""Texts of any lengths: reading prompts that come in parts, and decoding several together."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from tttvideo.backbone import Backbone
from tttvideo.reading import CHUNK
from tttvideo.states import structure

from .choose import Choose
from .decode import Decoding, Prefix, prefill


def read_parts(
    backbone: Backbone, parts: Iterable[np.ndarray], prefix: Prefix | None = None
) -> tuple[Prefix | None, int]:
    """Read a text after `prefix`; returns the new prefix and the number of tokens read.

    parts: the tokens of the text, integers (t,) each; the result does not depend on their sizes,
        because the chunks that the model reads do not.
    """
    device = backbone.embedding.weight.device
    count, rest = 0, np.zeros(0, np.int64)

    def read(tokens: np.ndarray) -> None:
        nonlocal prefix
        if len(tokens):
            row = torch.from_numpy(tokens)[None].to(device)
            prefix = prefill(backbone, row, CHUNK, prefix)

    for part in parts:
        count += len(part)
        rest = np.concatenate((rest, part))
        whole = len(rest) - len(rest) % CHUNK
        read(rest[:whole])
        rest = rest[whole:]
    read(rest)
    return prefix, count


def batches(backbone: Backbone, prefixes: Sequence[Prefix]) -> list[tuple[list[int], Decoding]]:
    """Texts, by their numbers, in batches of one structure if these are few, else packed in one."""
    parts = [Decoding.start(backbone, prefix) for prefix in prefixes]
    groups: dict[Any, list[int]] = {}
    for row, part in enumerate(parts):
        groups.setdefault(structure(part.state), []).append(row)
    # a packed row takes a third of the time of a separate call, measured on a CPU
    if 3 * len(groups) > len(prefixes) + 2:
        return [(list(range(len(prefixes))), Decoding.pack(backbone, prefixes))]
    return [(rows, Decoding.join([parts[row] for row in rows])) for rows in groups.values()]


class Texts:
    """Texts that are decoded together; each is the same as if it were decoded alone.

    rows: the numbers of the texts that have not ended.
    ended: the prefixes of the others: all their tokens, excluding the mark of the end, `eos`.
    """

    def __init__(
        self, backbone: Backbone, prefixes: Sequence[Prefix], choose: Choose, eos: int | None = None
    ):
        self.choose, self.eos = choose, eos
        self.batches = batches(backbone, prefixes)
        self.ended: dict[int, Prefix] = {}

    @property
    def rows(self) -> list[int]:
        return sorted(row for rows, _ in self.batches for row in rows)

    def step(self) -> dict[int, int]:
        """The next token of each text, by its number; texts that end here have none."""
        chosen: dict[int, int] = {}
        for rows, decoding in self.batches:
            tokens = self.choose(decoding.logits, rows)
            chosen |= dict(zip(rows, tokens.tolist(), strict=True))
        self.end([row for row, token in chosen.items() if token == self.eos])
        for rows, decoding in self.batches:
            read = [chosen[row] for row in rows]
            decoding.read(torch.tensor(read, device=decoding.logits.device))
        return {row: token for row, token in chosen.items() if token != self.eos}

    def end(self, ending: Sequence[int]) -> None:
        """End these texts."""
        before, self.batches = self.batches, []
        for rows, decoding in before:
            over = [place for place, row in enumerate(rows) if row in ending]
            self.ended |= {rows[place]: decoding.select([place]).prefix() for place in over}
            rest = [place for place in range(len(rows)) if place not in over]
            if over and rest:
                rows, decoding = [rows[place] for place in rest], decoding.select(rest)
            if rest:
                self.batches.append((rows, decoding))
