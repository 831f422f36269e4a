"""Choosing the next token from logits: greedy, or drawn with temperature, top-k and top-p.

B batch, V vocabulary.
"""

import secrets
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


FEW = 64  # tokens that are put in order where they hold top-p, which is faster than all


class Choose(Protocol):
    """Tokens (B,) from logits (B, V); rows: the number of each text, 0 to B - 1 by default."""

    def __call__(self, logits: Tensor, rows: Sequence[int] | None = None) -> Tensor: ...


class Chooser:
    """A function from logits (B, V) to tokens (B,); each row has its own random numbers.

    temperature: 0 takes the most probable token. top_k: keep the k most probable (0: all). top_p:
    keep the fewest tokens with this total probability. seed: row r draws with `seed + r`.
    Raises ValueError for other values.
    """

    def __init__(
        self, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, seed: int | None = None
    ):
        if not temperature >= 0 or top_k < 0 or not 0 < top_p <= 1:
            raise ValueError(
                f"temperature {temperature}, top-k {top_k}, top-p {top_p}: temperature and top-k "
                "must be 0 or more, top-p above 0 and at most 1"
            )
        if seed is not None and not 0 <= seed < 2**62:
            raise ValueError(f"seed {seed} must be 0 or more, and below 2^62")
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.seed = secrets.randbits(62) if seed is None else seed
        self.generators: dict[int, torch.Generator] = {}

    def generator(self, row: int) -> torch.Generator:
        """The row's generator; on the CPU, so that draws are the same on every device."""
        if row not in self.generators:
            self.generators[row] = torch.Generator().manual_seed(self.seed + row)
        return self.generators[row]

    def ranked(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (B, n) in order, and their tokens: all, or the few that top-p looks at."""
        if self.top_p < 1 and probabilities.shape[-1] > FEW:
            first, order = probabilities.topk(FEW)
            if (first.sum(-1) > self.top_p).all():
                return first, order
        return probabilities.sort(descending=True)

    def __call__(self, logits: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        if not logits.amax(-1).isfinite().all():
            raise ValueError("the model's logits are not finite: it diverged on these tokens")
        if self.temperature == 0:
            return logits.argmax(-1)
        probabilities, order = self.ranked((logits / self.temperature).double().softmax(-1))
        upto = probabilities.cumsum(-1)
        last = (upto - probabilities < self.top_p).sum(-1, keepdim=True) - 1  # of those kept
        if self.top_k:
            last = last.clamp_max(self.top_k - 1)
        rows = range(len(logits)) if rows is None else rows
        draws = [torch.rand(1, generator=self.generator(row), dtype=torch.float64) for row in rows]
        drawn = torch.stack(draws).to(logits.device) * upto.gather(-1, last)  # (B, 1)
        rank = (upto <= drawn).sum(-1, keepdim=True).minimum(last)  # the product may be rounded up
        return order.gather(-1, rank)[:, 0]
