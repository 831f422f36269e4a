"""Texts of any lengths: prompts that come in parts; reading, scoring and decoding several together.

C width.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tttvideo.backbone import Backbone, BackboneState
from tttvideo.kernels import Packed
from tttvideo.reading import CHUNK, score_hidden, score_logits
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


def read_texts(
    backbone: Backbone, texts: Sequence[Sequence[int]], states: list[BackboneState], chunk: int
) -> Iterator[tuple[int, list[int], tuple[Tensor, ...]]]:
    """Read texts, each from its state of batch 1, `chunk` tokens of each a call, without padding.

    states: replaced by those after the tokens that were read.
    Yields the index of a call's first token, the numbers of the texts that have tokens there, and
    for each of these the inputs (t, C) of the head.
    """
    device = backbone.embedding.weight.device
    for begin in range(0, max(map(len, texts), default=0), chunk):
        left = {row: text for row, text in enumerate(texts) if begin < len(text)}
        parts = {row: text[begin : begin + chunk] for row, text in left.items()}
        lengths = tuple(map(len, parts.values()))
        tokens = torch.tensor([[*chain(*parts.values())]], device=device)
        packed = Packed(tuple(states[row] for row in parts), lengths)
        hidden, after = backbone.features(tokens, packed)
        for row, state in zip(parts, after.states, strict=True):
            states[row] = state
        yield begin, list(parts), hidden[0].split(lengths)


@torch.inference_mode()
def prefill_texts(
    backbone: Backbone, texts: Sequence[Sequence[int]], chunk: int = CHUNK
) -> list[Prefix]:
    """The prefix of each text, all of 1 token or more, as `prefill` gives it."""
    states = [backbone.init_state(1)] * len(texts)
    last: dict[int, Tensor] = {}
    for _, rows, hidden in read_texts(backbone, texts, states, chunk):
        last |= {row: x[-1:] for row, x in zip(rows, hidden, strict=True)}
    return [Prefix(backbone.head(last[row]), state) for row, state in enumerate(states)]


@torch.inference_mode()
def likelihoods(
    backbone: Backbone,
    texts: Sequence[Sequence[int]],
    prefixes: Sequence[Prefix],
    chunk: int = CHUNK,
) -> list[tuple[float, bool]]:
    """Log-likelihood of each text after its prefix in nats; whether all tokens are greedy choices.

    A text may be empty.
    """
    rows = [row for row, text in enumerate(texts) if text]
    if not rows:
        return [(0.0, True)] * len(texts)
    device = backbone.embedding.weight.device
    first = torch.tensor([texts[row][0] for row in rows], device=device)
    scores = [score_logits(torch.cat([prefixes[row].logits for row in rows]), first)]
    owners = [*rows]  # the text of each token that is scored
    read, states = [text[:-1] for text in texts], [prefix.state for prefix in prefixes]
    for begin, rows, hidden in read_texts(backbone, read, states, chunk):
        wanted: list[int] = []
        for row, x in zip(rows, hidden, strict=True):
            wanted += texts[row][begin + 1 : begin + 1 + len(x)]
            owners += [row] * len(x)
        scores.append(score_hidden(backbone, torch.cat(hidden), torch.tensor(wanted)))
    nats, greedy = (torch.cat(parts) for parts in zip(*scores, strict=True))
    places = torch.tensor(owners, device=device)
    total = nats.new_zeros(len(texts)).index_add_(0, places, -nats)
    misses = places.new_zeros(len(texts)).index_add_(0, places, (~greedy).long())
    return list(zip(total.tolist(), (misses == 0).tolist(), strict=True))


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
