"""States of mixers, blocks and backbones, whatever they hold: frozen dataclasses of tensors.

A state's leaves are tensors with the batch on their first axis, integers and None, in tuples and in
dataclasses that `@state` marks; here they are mapped, put together and apart, and made plain.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tttvideo.kernels import State


KINDS: dict[str, type] = {"State": State}
S = TypeVar("S")


def state(kind: type[S]) -> type[S]:
    """Make a class a frozen dataclass whose instances can be written to a file and read back."""
    KINDS[kind.__name__] = dataclass(frozen=True)(kind)
    return KINDS[kind.__name__]


class Mixer(nn.Module):
    """What mixes tokens over time: forward(x (B, T, C), state) -> (y (B, T, C), state).

    Any cut of a sequence into calls gives the same. `init_state(batch)` is what comes before the
    first token.
    """

    def part(self, state: S) -> S:
        """What a lane carries from one window to the next: numbers without their history."""
        return tree_map(Tensor.detach, state)

    def join(self, state: S) -> S:
        """The state to go on from, of what `part` gave."""
        return state


def tree_map(change: Callable[..., Any], first: Any, *others: Any) -> Any:
    """`change` of the tensors at the same place of states of the same shape; the rest as is."""
    if isinstance(first, Tensor):
        return change(first, *others)
    if isinstance(first, tuple):
        return tuple(tree_map(change, *leaves) for leaves in zip(first, *others, strict=True))
    if type(first) in KINDS.values():
        trees = [[getattr(tree, f.name) for f in fields(first)] for tree in (first, *others)]
        return type(first)(*(tree_map(change, *leaves) for leaves in zip(*trees, strict=True)))
    return first


def shape(tree: Any) -> Any:
    """All of a state but the numbers in its tensors and its batch."""
    if isinstance(tree, Tensor):
        return tree.shape[1:], tree.dtype
    if isinstance(tree, tuple):
        return tuple(map(shape, tree))
    if type(tree) in KINDS.values():
        return type(tree), tuple(shape(getattr(tree, f.name)) for f in fields(tree))
    return tree


def alike(states: Sequence[Any]) -> bool:
    """Can these states be one batch?"""
    return all(shape(other) == shape(states[0]) for other in states[1:])


def stack(states: Sequence[S]) -> S:
    """One state, the batches of these one after the other; they must be alike."""
    return tree_map(lambda *tensors: torch.cat(tensors), *states)


def unstack(state: S, batch: int) -> list[S]:
    """One state for each sequence of the batch."""
    return [tree_map(lambda x, i=i: x[i : i + 1], state) for i in range(batch)]


def lengths_of(cu_seqlens: Tensor) -> list[int]:
    """Of packed sequences, from the borders between them, (S + 1,)."""
    return [end - begin for begin, end in pairwise(cu_seqlens.tolist())]


def each(layer: Callable, x: Tensor, states: Sequence[S], lengths: list[int]) -> tuple[Any, list]:
    """A layer over sequences packed into one row, x (1, T, ...), each from its own state."""
    parts = [layer(*both) for both in zip(x.split(lengths, dim=1), states, strict=True)]
    return torch.cat([y for y, _ in parts], dim=1), [after for _, after in parts]


def to_plain(tree: Any) -> Any:
    """A state as dicts, lists, numbers and tensors, which torch loads with weights only."""
    if isinstance(tree, tuple):
        return list(map(to_plain, tree))
    if type(tree) in KINDS.values():
        leaves = {f.name: to_plain(getattr(tree, f.name)) for f in fields(tree)}
        return {"kind": type(tree).__name__, **leaves}
    return tree.detach().clone() if isinstance(tree, Tensor) else tree


def from_plain(plain: Any, device: torch.device | str = "cpu") -> Any:
    """The state that `to_plain` made plain; KeyError for a kind that there is not."""
    if isinstance(plain, list):
        return tuple(from_plain(leaf, device) for leaf in plain)
    if isinstance(plain, dict):
        leaves = {k: from_plain(v, device) for k, v in plain.items() if k != "kind"}
        return KINDS[plain["kind"]](**leaves)
    return plain.to(device) if isinstance(plain, Tensor) else plain
