"""State trees: frozen dataclasses of tensors, for mixers, blocks and backbones.

The leaves of a state are tensors with the batch on their first axis, integers and None, nested in
tuples and in classes that `state_dataclass` registers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar, dataclass_transform

import torch
from torch import Tensor

from tttvideo.kernels import Packed, State
from tttvideo.kernels.state import alike, batched, in_order, together, unbatched


S = TypeVar("S")
REGISTERED: dict[str, type] = {"State": State}
"""State classes by the names that files use for them."""


@dataclass_transform(frozen_default=True)
def state_dataclass(cls: type[S]) -> type[S]:
    """Make a class a frozen dataclass that `to_plain` and `from_plain` know by its name."""
    REGISTERED[cls.__name__] = dataclass(frozen=True)(cls)
    return cls


def tree_map(change: Callable[..., Any], first: S, *others: S) -> S:
    """Apply `change` to the tensors at the same place of states of one structure.

    Integers and None are those of the first state.
    """
    tree: Any = first
    if isinstance(tree, Tensor):
        return change(tree, *others)
    if isinstance(tree, tuple):
        leaves: Any = zip(tree, *others, strict=True)
        return tuple(tree_map(change, *places) for places in leaves)  # type: ignore[return-value]
    if type(tree) in REGISTERED.values():
        trees = [[getattr(one, field.name) for field in fields(tree)] for one in (tree, *others)]
        return type(tree)(*(tree_map(change, *places) for places in zip(*trees, strict=True)))
    return first


def state_bytes(state: Any) -> int:
    """Bytes of all tensors in a state."""
    sizes: list[int] = []

    def count(x: Tensor) -> Tensor:
        sizes.append(x.nbytes)
        return x

    tree_map(count, state)
    return sum(sizes)


def structure(tree: Any) -> Any:
    """Everything in a state except its batch size and the numbers in its tensors."""
    if isinstance(tree, Tensor):
        return tree.shape[1:], tree.dtype
    if isinstance(tree, tuple):
        return tuple(map(structure, tree))
    if type(tree) in REGISTERED.values():
        return type(tree), tuple(structure(getattr(tree, field.name)) for field in fields(tree))
    return tree


def same_structure(states: Sequence[Any]) -> bool:
    """Whether `stack` can make one batch of these states."""
    return all(structure(other) == structure(states[0]) for other in states[1:])


def stack(states: Sequence[S]) -> S:
    """Concatenate the batches of states of one structure."""
    return tree_map(lambda *tensors: torch.cat(tensors), *states)


def unstack(state: S, batch: int) -> list[S]:
    """Split a state into one of batch 1 for each sequence."""
    return [tree_map(lambda x, i=i: x[i : i + 1], state) for i in range(batch)]


def run_packed(
    layer: Callable[[Tensor, S], tuple[Tensor, S]], x: Tensor, packed: Packed[S]
) -> tuple[Tensor, Packed[S]]:
    """Run a layer over each sequence of a row x (1, T, ...) from its own state.

    Sequences of equal lengths whose states have one structure are a batch.
    """
    groups, ys, found = alike(packed, structure), [], []
    for part, group in zip(batched(x, packed.lengths, groups), groups, strict=True):
        states = [packed.states[i] for i in group]
        y, after = layer(part, tree_map(lambda *tensors: together(tensors), *states))
        ys.append(y)
        found.append(unstack(after, len(group)) if len(group) > 1 else [after])
    return unbatched(ys, groups), Packed(tuple(in_order(found, groups)), packed.lengths)


def run(
    layer: Callable[[Tensor, Any], tuple[Tensor, Any]], x: Tensor, state: Any
) -> tuple[Tensor, Any]:
    """Run a layer from a state, or over packed sequences from packed states."""
    return run_packed(layer, x, state) if isinstance(state, Packed) else layer(x, state)


def combine(make: Callable[..., Any], *states: Any) -> Any:
    """`make` of states, or of the states of each packed sequence."""
    if isinstance(states[0], Packed):
        made = map(make, *(packed.states for packed in states))
        return Packed(tuple(made), states[0].lengths)
    return make(*states)


def to_plain(tree: Any) -> Any:
    """Convert a state to dicts, lists, numbers and tensors, which torch loads weights-only."""
    if isinstance(tree, tuple):
        return list(map(to_plain, tree))
    if type(tree) in REGISTERED.values():
        leaves = {field.name: to_plain(getattr(tree, field.name)) for field in fields(tree)}
        return {"kind": type(tree).__name__, **leaves}
    return tree.detach().clone() if isinstance(tree, Tensor) else tree


def from_plain(plain: Any, device: torch.device | str = "cpu") -> Any:
    """The inverse of `to_plain`.

    Raises: KeyError for a class name that is not registered.
    """
    if isinstance(plain, list):
        return tuple(from_plain(leaf, device) for leaf in plain)
    if isinstance(plain, dict):
        leaves = {key: from_plain(leaf, device) for key, leaf in plain.items() if key != "kind"}
        return REGISTERED[plain["kind"]](**leaves)
    return plain.to(device) if isinstance(plain, Tensor) else plain
