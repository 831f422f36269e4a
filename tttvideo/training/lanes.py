"""Lanes: streams of a batch, whose states a run of training carries from window to window.

Each of several processes has lanes of its own; the first one saves the states of all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, distributed

from tttvideo.states import from_plain, structure, to_plain, tree_map


class Lanes:
    """The states that each lane carries, of batch 1, as the model's `detach_carry` gives them."""

    def __init__(self, model: Any):
        self.model, self.carried = model, list[Any]()

    def start(self, fresh: Tensor) -> list[Any]:
        """The state that each lane continues from: the carried one, or the learned start.

        fresh: (B,) of the first B lanes, which are those that have not ended.
        """
        start, lanes = self.model.init_state(1), enumerate(fresh.tolist())
        return [start if anew else self.model.attach_carry(self.carried[n]) for n, anew in lanes]

    def carry(self, after: Sequence[Any]) -> None:
        self.carried = [self.model.detach_carry(state) for state in after]

    def to(self, device: torch.device | str) -> None:
        self.carried = [tree_map(lambda x: x.to(device), state) for state in self.carried]

    def to_plain(self) -> list[list[Any]]:
        """The states of the lanes of each process, in the first of them."""
        own = [to_plain(tree_map(lambda x: x.cpu(), state)) for state in self.carried]
        if not distributed.is_available() or not distributed.is_initialized():
            return [own]
        first, count = distributed.get_rank() == 0, distributed.get_world_size()
        found: list[Any] = [None] * count
        distributed.gather_object(own, found if first else None)
        return found

    def load(self, checkpoint: Mapping[str, Any], trainer: Trainer) -> dict[str, Any]:
        """Continue those of a checkpoint, in training; returns its record of training.

        Raises: ValueError for a checkpoint without them, or of another number of processes.
        """
        try:
            saved, trained = checkpoint["lane_states"], dict(checkpoint["tttvideo"]["trained"])
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"the checkpoint was written by another model or version, without {error}; start a "
                "new run with another --out"
            ) from error
        if trainer.state.fn == TrainerFn.FITTING:
            if len(saved) != trainer.world_size:
                raise ValueError(
                    f"the run in --out has {len(saved)} processes, and there are "
                    f"{trainer.world_size}; set trainer.devices to as many, or choose another --out"
                )
            self.carried = [from_plain(state) for state in saved[trainer.global_rank]]
        return trained


def weigh(batch: Any, processes: int) -> tuple[float, int]:
    """The factor of this process's loss with which the mean over the processes is that over all
    rows of the step, and the number of those rows.

    Lanes end at different steps: see data/lanes.py.
    """
    if batch.rows is None:
        return 1.0, len(batch.tokens) * processes
    own, rows = batch.rows.tolist()
    return own * processes / rows, rows


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
