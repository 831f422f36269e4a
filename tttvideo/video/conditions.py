"""Conditions: what is known of each frame besides its tokens, and its embedding.

B batch, F frames, C width, A numbers of an action, D numbers of a pose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tttvideo.states import state_dataclass, tree_map


@state_dataclass
class Conditions:
    """What is known of F frames that are read; None where it is not known."""

    actions: Tensor | None = None
    """(B, F) integers, or (B, F, A) numbers: what leads from each frame to the next"""
    poses: Tensor | None = None
    """(B, F + 1, D): where each frame, and the one after the last, was taken"""
    classes: Tensor | None = None
    """(B,) the class of the video"""
    seconds: Tensor | None = None
    """(B, F) the time from each frame to the next"""

    def frames(self, begin: int, end: int) -> Conditions:
        """Those of frames `begin` to `end` - 1."""

        def part(x: Tensor | None, more: int = 0) -> Tensor | None:
            return None if x is None else x[:, begin : end + more]

        poses = part(self.poses, more=1)
        return Conditions(part(self.actions), poses, self.classes, part(self.seconds))

    @staticmethod
    def join(parts: Sequence[Conditions]) -> Conditions:
        """Those of the frames of all parts, one after the other, of the same videos."""

        def cat(name: str) -> Tensor | None:
            found = [x for part in parts if (x := getattr(part, name)) is not None]
            if name == "poses":  # the last of a part is the first of the next
                found = [x[:, :-1] for x in found[:-1]] + found[-1:]
            return torch.cat(found, dim=1) if found else None

        return Conditions(cat("actions"), cat("poses"), parts[-1].classes, cat("seconds"))

    def to(self, device: torch.device | str) -> Conditions:
        return tree_map(lambda x: x.to(device), self)


NOTHING = Conditions()


@dataclass
class ConditionsConfig:
    actions: int | None = None
    """Kinds of actions that are integers; 0: none; null: those of the token file."""
    action_size: int = 0
    """Numbers of an action that is no integer; 0: none."""
    classes: int = 0
    """Classes of videos; 0: none."""
    seconds: bool = False
    """Whether the time to the next frame is an input, for videos of different frame rates."""
    dropout: float = 0.0
    """Share of training windows in which the conditions, excluding poses, are hidden, so that the
    model can be used with and without them."""


class Labels(nn.Module):
    """Integers to vectors; unknown and hidden ones have a vector of their own."""

    def __init__(self, kinds: int, width: int):
        super().__init__()
        self.kinds, self.table = kinds, nn.Embedding(kinds + 1, width)

    def forward(self, labels: Tensor | None, hidden: Tensor) -> Tensor:
        """labels: (B, F). hidden: (B, F) True where they are hidden."""
        known = torch.full_like(hidden, self.kinds, dtype=torch.long) if labels is None else labels
        return self.table(known.masked_fill(hidden, self.kinds))


class Numbers(nn.Module):
    """Numbers to vectors; zeros, and a flag, where they are unknown or hidden."""

    def __init__(self, count: int, width: int):
        super().__init__()
        self.count, self.project = count, nn.Linear(count + 1, width, bias=False)

    def forward(self, numbers: Tensor | None, hidden: Tensor) -> Tensor:
        """numbers: (B, F, count). hidden: (B, F) True where they are hidden."""
        if numbers is None:
            return self.project(self.project.weight.new_zeros(*hidden.shape, self.count + 1))
        flagged = nn.functional.pad(numbers.to(self.project.weight), (0, 1), value=1.0)
        return self.project(flagged * ~hidden[..., None])


class ConditionEmbedding(nn.Module):
    """One vector (B, F, 1, C) per frame, the sum over its conditions."""

    octaves: Tensor

    def __init__(self, config: ConditionsConfig, width: int):
        super().__init__()
        if config.actions and config.action_size:
            raise ValueError(
                f"conditions.actions is {config.actions} and conditions.action_size "
                f"{config.action_size}; actions are integers or numbers, so leave one at 0"
            )
        self.dropout = config.dropout
        self.register_buffer("octaves", torch.arange(-6.0, 6.0), persistent=False)
        parts: dict[str, nn.Module] = {}
        if config.actions:
            parts["actions"] = Labels(config.actions, width)
        if config.action_size:
            parts["actions"] = Numbers(config.action_size, width)
        if config.classes:
            parts["classes"] = Labels(config.classes, width)
        if config.seconds:
            parts["seconds"] = Numbers(len(self.octaves), width)
        self.parts = nn.ModuleDict(parts)

    def forward(self, given: Conditions, like: Tensor) -> Tensor | float:
        """The sum for frames `like` (B, F, ...), of which only shape and device count."""
        hidden = torch.zeros(like.shape[:2], dtype=torch.bool, device=like.device)
        if self.training and self.dropout:
            hidden |= torch.rand(len(like), 1, device=like.device) < self.dropout
        known = {
            "actions": given.actions,
            "classes": None if given.classes is None else given.classes[:, None].expand_as(hidden),
            "seconds": None if given.seconds is None else self.near_octaves(given.seconds),
        }
        vectors = [part(known[name], hidden) for name, part in self.parts.items()]
        return sum(vectors)[:, :, None] if vectors else 0.0

    def near_octaves(self, seconds: Tensor) -> Tensor:
        """How near the logarithm of each time is to each octave, (B, F, octaves)."""
        return (1 - (seconds[..., None].log2() - self.octaves).abs()).clamp_min(0)
