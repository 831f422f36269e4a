"""The forget gate: the share g of W - W0 that a head keeps from one mini-batch to the next.

    g = sigmoid(start + shift + w . mean of the layer's input over the mini-batch)

Forgetting returns to what the layer knows, W0, and not to zero. Heads start at different time
scales. The starts are constants, so that weight decay pulls the gate to them and not to g = 1/2.

B batch, T tokens, M mini-batch size, H heads (of every block), C width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tttvideo.layers import full


HALF_LIVES = {"text": (16, 64), "frames": (16, 1024)}
"""Shortest and longest half-life of a memory at the start, in mini-batches; heads lie between."""


class ForgetGate(nn.Module):
    """log g of every mini-batch, for any cut: the state is the sum of scores (B, H) so far."""

    start: Tensor

    def __init__(self, width: int, heads: int, frames: bool, first_decay: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads, width))
        self.shift = nn.Parameter(torch.zeros(heads))
        half_lives = [n / first_decay for n in HALF_LIVES["frames" if frames else "text"]]
        self.register_buffer("start", starts(heads, *half_lives))

    def scores(self, x: Tensor) -> Tensor:
        """The score (B, T, H) of each token of x (B, T, C); the gate takes a mini-batch's mean."""
        with torch.autocast(x.device.type, enabled=False):
            bias = full(self.start) + full(self.shift)
            return F.linear(full(x), full(self.weight), bias)

    def log_keep(self, scores: Tensor, total: Tensor, filled: int, M: int) -> tuple[Tensor, Tensor]:
        """log g (B, T, H) at tokens that fill a mini-batch, 0 at the others; the new total (B, H).

        total: the sum of the scores of the `filled` tokens of the open mini-batch.
        """
        T = scores.shape[1]
        count, left = divmod(filled + T, M)
        padded = F.pad(scores, (0, 0, filled, (M - left) % M))
        sums = padded.unflatten(1, (-1, M)).sum(2)
        sums = torch.cat((sums[:, :1] + total[:, None], sums[:, 1:]), dim=1)
        log_keep = torch.zeros_like(scores)
        log_keep[:, M - 1 - filled :: M] = F.logsigmoid(sums[:, :count] / M)
        return log_keep, sums[:, -1] if left else torch.zeros_like(total)

    def log_keep_one(
        self, scores: Tensor, total: Tensor, places: Tensor, M: int
    ) -> tuple[Tensor, Tensor]:
        """As `log_keep` for one token of sequences at places (B, 1) of their mini-batches."""
        total = total + scores[:, 0]
        return F.logsigmoid(total / M)[:, None], total * (places < M - 1)


def starts(heads: int, shortest: float, longest: float) -> Tensor:
    """The logit of g (H,) for half-lives spread evenly, on a logarithmic scale, over the heads."""
    shares = (torch.arange(heads, dtype=torch.float64) + 0.5) / heads
    half_lives = shortest * (longest / shortest) ** shares
    return -torch.log(torch.expm1(math.log(2) / half_lives)).float()
