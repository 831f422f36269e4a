"""Lanes: streams of a batch, whose states a run of training carries from window to window."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tttvideo.states import from_plain, structure, to_plain, tree_map


class Lanes:
    """The states that each lane carries, of batch 1, as the model's `detach_carry` gives them."""

    def __init__(self, model: Any):
        self.model, self.carried = model, list[Any]()

    def start(self, fresh: Tensor) -> list[Any]:
        """The state that each lane continues from: the carried one, or the learned start."""
        start = self.model.init_state(1)
        carried = self.carried or [start] * len(fresh)
        lanes = zip(fresh.tolist(), carried, strict=True)
        return [start if anew else self.model.attach_carry(carry) for anew, carry in lanes]

    def carry(self, after: Sequence[Any]) -> None:
        self.carried = [self.model.detach_carry(state) for state in after]

    def to(self, device: torch.device | str) -> None:
        self.carried = [tree_map(lambda x: x.to(device), state) for state in self.carried]

    def to_plain(self) -> list[Any]:
        return [to_plain(state) for state in self.carried]

    def load(self, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """Continue those of a checkpoint; returns its record of training.

        Raises: ValueError for a checkpoint without them.
        """
        try:
            self.carried = [from_plain(state) for state in checkpoint["lanes"]]
            return dict(checkpoint["tttvideo"]["trained"])
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"the checkpoint was written by another model or version, without {error}; start a "
                "new run with another --out"
            ) from error


def by_structure(states: Sequence[Any]) -> list[list[int]]:
    """The places of states that `stack` can make one batch of, group by group."""
    groups: dict[Any, list[int]] = {}
    for place, state in enumerate(states):
        groups.setdefault(structure(state), []).append(place)
    return list(groups.values())


def noisy(tokens: Tensor, most: float, draw: Callable[[Tensor], Tensor]) -> Tensor:
    """Tokens (B, ...) of which each row has a random share replaced by `draw`, at most `most`.

    A model that learned to read its own mistakes keeps to its subject when it reads its own frames.
    """
    if not most:
        return tokens
    rate = most * torch.rand(len(tokens), *[1] * (tokens.ndim - 1), device=tokens.device)
    return torch.where(torch.rand(tokens.shape, device=tokens.device) < rate, draw(tokens), tokens)
