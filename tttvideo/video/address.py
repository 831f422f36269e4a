"""Addresses by place: features of where each token of a frame lies in the world.

A memory that is asked for a place finds what was written there, whatever it looks like: its key is
of the place that a token shows now, its query of the same place in the next frame.

B batch, F frames, P tokens per frame, C width, D numbers of a pose, n coordinates of a token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tttvideo.layers import full
from tttvideo.mixers.mixer import Address, Grid


@dataclass
class AddressConfig:
    poses: Literal["none", "shift", "walk", "moves"] = "none"
    """What a pose is. shift: row and column of a frame's first token in the world, in tokens; walk:
    x, y and the angle in degrees of a viewer; moves: shifts that are the sum of the actions; none:
    there are no poses, and content addresses content."""
    periods: tuple[int, int] | None = None
    """Rows and columns after which a world of shifts repeats; null: it does not; `fit` takes it
    from the token file."""
    moves: list[tuple[float, float]] | None = None
    """Rows and columns that each action moves the view by, for poses: moves."""
    scales: tuple[float, ...] = (1.0, 4.0, 16.0)
    """Distances, in the unit of the poses, at which places are told apart; for worlds that do not
    repeat."""
    turn: float = 17.0
    """Degrees at which the views of a walk are told apart."""
    features: int = 64
    """Random Fourier features of each scale."""
    as_input: bool = False
    """Add the place of a token now, and in the next frame, to its input, for memories without keys,
    such as Mamba, and for attention inside the frame."""


class PlaceAddress(nn.Module):
    """Poses (B, F + 1, D) to the Address of F frames of tokens."""

    places: Tensor
    waves: Tensor

    def __init__(self, config: AddressConfig, width: int, grid: Grid):
        super().__init__()
        if (config.poses == "moves") != bool(config.moves):
            raise ValueError("address.moves belongs to address.poses: moves; set both or neither")
        self.config = config
        places = torch.cartesian_prod(*map(torch.arange, grid)).float()  # (P, 2) rows, columns
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("waves", random_waves(config, grid))
        self.project = nn.Linear(address_features(config), width, bias=False)

    def forward(self, poses: Tensor) -> Address:
        with torch.autocast(poses.device.type, enabled=False):  # half precision confuses places
            waves = self.features(self.coordinates(poses.to(full(self.places))))
        features = self.project(waves.to(self.project.weight))
        features = F.rms_norm(features, features.shape[-1:])
        return Address(features[:, :-1].flatten(1, 2), features[:, 1:].flatten(1, 2))

    def coordinates(self, poses: Tensor) -> Tensor:
        """Coordinates (B, F, P, n) of every token; distances between them are what counts."""
        poses = poses[:, :, None].expand(-1, -1, len(self.places), -1)
        if self.config.poses != "walk":
            return poses + full(self.places)
        angle = torch.deg2rad(poses[..., 2:])
        turn = torch.cat((angle.cos(), angle.sin()), dim=-1)
        return torch.cat((poses[..., :2], turn, self.places.expand(*poses.shape[:3], 2)), dim=-1)

    def features(self, coordinates: Tensor) -> Tensor:
        """Waves over the world (B, F, P, features), of mean square 1/2."""
        if self.config.periods:
            axes = zip(coordinates.unbind(-1), self.config.periods, strict=True)
            rows, columns = (harmonics(x, period) for x, period in axes)
            both = 2**0.5 * (rows[..., :, None] * columns[..., None, :]).flatten(-2)
            return torch.cat((rows, columns, both), dim=-1)
        angles = coordinates @ full(self.waves).T
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


def address_features(config: AddressConfig) -> int:
    """How many features a place has; 0 without poses."""
    if config.poses == "none":
        return 0
    if config.periods:
        rows, columns = (2 * (period // 2) for period in config.periods)
        return rows + columns + rows * columns
    return 2 * len(config.scales) * config.features


def harmonics(x: Tensor, period: int) -> Tensor:
    """Sines and cosines of x (...) at every frequency of a circle, (..., period)."""
    frequencies = torch.arange(1, period // 2 + 1, device=x.device) * (2 * math.pi / period)
    angles = x[..., None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def random_waves(config: AddressConfig, grid: Grid) -> Tensor:
    """Wave vectors (scales * features, n): points a scale apart have features of small overlap."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor(config.scales).repeat_interleave(config.features)[:, None]
    drawn = torch.randn(len(scales), 6, generator=generator)
    if config.poses != "walk":
        return drawn[:, :2] / scales
    turn = math.radians(config.turn)
    apart = torch.tensor([turn, turn, 1.0, 1.0])
    return torch.cat((drawn[:, :2] / scales, drawn[:, 2:] / apart), dim=1)


def shifts_of_moves(
    actions: Tensor, moves: list[tuple[float, float]], start: Tensor
) -> tuple[Tensor, Tensor]:
    """Poses (B, F + 1, 2) by actions (B, F) from the pose `start` (B, 2); and the last of them."""
    steps = torch.tensor(moves, device=actions.device)[actions]
    poses = torch.cat((start[:, None], start[:, None] + steps.cumsum(1)), dim=1)
    return poses, poses[:, -1]
