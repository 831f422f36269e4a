"""State: the inner loop's state between two tokens; Packed: the states of many sequences.

B batch, H heads, M mini-batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
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

    @staticmethod
    def batch(states: Sequence[State]) -> State:
        """One state of sequences that are at the same place of their mini-batches."""
        weights, rows = (
            tuple(map(together, zip(*tensors, strict=True)))
            for tensors in zip(*((one.weights, one.open) for one in states), strict=True)
        )
        return State(weights, rows, states[0].filled)

    def split(self) -> list[State]:
        """The state of each sequence."""
        weights, rows = (
            list(zip(*(x.split(1) for x in tensors), strict=True))
            for tensors in (self.weights, self.open)
        )
        rows = rows or [()] * len(weights)
        return [State(*both, self.filled) for both in zip(weights, rows, strict=True)]

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


def alike(packed: Packed[S], kind: Callable[[S], Hashable]) -> list[list[int]]:
    """The numbers of the sequences, in groups of equal lengths and kinds of states.

    One batch can hold a group, which for many short sequences is far faster than one by one.
    """
    kinds = {id(state): kind(state) for state in packed.states}  # many may share one
    groups: dict[Hashable, list[int]] = {}
    for i, (state, length) in enumerate(zip(packed.states, packed.lengths, strict=True)):
        groups.setdefault((length, kinds[id(state)]), []).append(i)
    return list(groups.values())


def batched(x: Tensor, lengths: Sequence[int], groups: Sequence[Sequence[int]]) -> list[Tensor]:
    """The sequences of a row (1, T, ...) as a batch (n, length, ...) for each group of n."""
    parts = x.split(lengths, dim=1)
    return [together([parts[i] for i in group]) for group in groups]


def unbatched(ys: Sequence[Tensor], groups: Sequence[Sequence[int]]) -> Tensor:
    """The inverse of `batched`."""
    parts = [y.split(1) if len(g) > 1 else [y] for y, g in zip(ys, groups, strict=True)]
    return torch.cat(in_order(parts, groups), dim=1)


def in_order(found: Sequence[Sequence[S]], groups: Sequence[Sequence[int]]) -> list[S]:
    """What was found for each member of each group, by the number of the sequence."""
    numbered: dict[int, S] = {}
    for group, ones in zip(groups, found, strict=True):
        numbered |= zip(group, ones, strict=True)
    return [numbered[i] for i in range(len(numbered))]


def together(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors (1, ...) as a batch; a view, not to be changed, where all are one tensor."""
    first = tensors[0]
    if len(tensors) == 1:
        return first
    if all(x is first for x in tensors):
        return first.expand(len(tensors), *first.shape[1:])
    return torch.cat(list(tensors))


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
