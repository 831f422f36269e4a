"""State: the inner loop's state between two tokens; Packed: the states of many sequences.

B batch, H heads, M mini-batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, final

import torch
from torch import Tensor


S = TypeVar("S")


@final
@dataclass(frozen=True)
class State:
    """Fast weights at the start of the open mini-batch, and the contributions of its tokens so far.

    weights: W, b of each inner layer in turn, W (B, H, in, out) and b (B, H, 1, out), float32
        (float64 for float64 inputs).
    open: X, S of each inner layer in turn, X (B, H, filled, in) the inputs and S (B, H, filled,
        out) the gradients times eta; empty when `filled` is 0.
    filled: tokens of the open mini-batch seen so far, 0 <= filled < M.
    """

    weights: tuple[Tensor, ...]
    open: tuple[Tensor, ...] = ()
    filled: int = 0

    def missing(self, T: int, M: int) -> int:
        """The number of T tokens that the open mini-batch of M still lacks; 0 if none is open."""
        return min(T, M - self.filled) if self.filled else 0

    def cut(self, T: int, M: int) -> tuple[int, int, int]:
        """Lengths of the parts of T tokens: rest of the open mini-batch, whole ones, short end."""
        head = self.missing(T, M)
        tail = (T - head) % M
        return head, T - head - tail, tail

    def map(self, change: Callable[[Tensor], Tensor]) -> State:
        """The state with `change` applied to every tensor, for instance `Tensor.detach`."""
        return State(tuple(map(change, self.weights)), tuple(map(change, self.open)), self.filled)


@final
@dataclass(frozen=True)
class Packed(Generic[S]):
    """States of sequences that lie one after the other in one row of tokens, and their lengths."""

    states: tuple[S, ...]
    lengths: tuple[int, ...]
    """Tokens of each sequence, all >= 1."""


def states_of(state: State | Packed[State]) -> tuple[State, ...]:
    return state.states if isinstance(state, Packed) else (state,)


def pairs(tensors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """(W, b) or (X, S) of each inner layer."""
    return list(zip(tensors[::2], tensors[1::2], strict=True))


def interleave(inputs: Sequence[Tensor], steps: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Rows of a state, X and S in turn; the gradient of a bias is the gradient row itself."""
    return tuple(x for pair in zip(inputs, steps, strict=True) for x in pair)


def joined(rows: tuple[Tensor, ...], new: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Open rows followed by new ones, as copies: a view would keep the whole tensor alive."""
    if not rows:
        return tuple(x.clone() for x in new)
    return tuple(torch.cat(both, dim=2) for both in zip(rows, new, strict=True))
