"""A ConvLSTM of pixels: the frame after each one, from a memory of maps (arXiv 1506.04214).

The baseline that reads true pixels and has no tokens. Patches of pixels become channels, every
layer is an LSTM whose products are convolutions, and the top layer's output becomes the next frame.
As in most code of the field the gates do not see the cell (the paper's peepholes), and one stack
both reads and predicts: it continues a video by reading its own frames.

B batch, F frames, S pixels of height and width, R = S / patch rows and columns of maps, C width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


@dataclass
class ConvLSTMConfig:
    size: int = 64
    """Height and width of a frame in pixels."""
    patch: int = 4
    """Height and width of the patches whose pixels become channels; a divisor of `size`."""
    width: int = 64
    """Channels of the output and of the cell of each layer, C."""
    depth: int = 2
    """Layers."""
    kernel: int = 3
    """Height and width of the convolutions, odd."""


Maps = tuple[Tensor, Tensor]
"""Output and cell of a layer, (B, C, R, R) each."""
ConvLSTMState = tuple[Maps, ...]
"""Maps of each layer."""


class ConvLSTMLayer(nn.Module):
    """Equation 3 of the paper, without peepholes: all gates from one convolution."""

    def __init__(self, inputs: int, width: int, kernel: int):
        super().__init__()
        self.gates = nn.Conv2d(inputs + width, 4 * width, kernel, padding=kernel // 2)
        with torch.no_grad():
            cast(Tensor, self.gates.bias)[width : 2 * width] = 1.0  # cells begin by keeping

    def forward(self, x: Tensor, maps: Maps) -> Maps:
        """One frame x (B, inputs, R, R)."""
        output, cell = maps
        i, f, o, new = self.gates(torch.cat((x, output), dim=1)).chunk(4, dim=1)
        cell = f.sigmoid() * cell + i.sigmoid() * new.tanh()
        return o.sigmoid() * cell.tanh(), cell


class ConvLSTM(nn.Module):
    """(frames, state) -> (the frame after each, state), for any cut."""

    def __init__(self, config: ConvLSTMConfig):
        super().__init__()
        check_sizes(config)
        self.config = config
        channels, width = 3 * config.patch**2, config.width
        layers = [
            ConvLSTMLayer(width if n else channels, width, config.kernel)
            for n in range(config.depth)
        ]
        self.layers = cast(Sequence[ConvLSTMLayer], nn.ModuleList(layers))
        self.out = nn.Conv2d(width, channels, 1)

    def init_state(self, batch: int) -> ConvLSTMState:
        R = self.config.size // self.config.patch
        empty = self.out.weight.new_zeros(batch, self.config.width, R, R)
        return ((empty, empty),) * self.config.depth

    def forward(
        self, frames: Tensor, state: ConvLSTMState | None = None
    ) -> tuple[Tensor, ConvLSTMState]:
        """Read frames (B, F, S, S, 3) uint8: the frame after each, float near [0, 1].

        state: before the first frame; None: the start of a video.
        Raises: ValueError for frames of another shape.
        """
        after, state = self.read(self.to_maps(frames), state)
        return self.to_frames(after), state

    def roll_out(self, frames: Tensor, count: int, state: ConvLSTMState | None = None) -> Tensor:
        """As `forward`, and `count` - 1 frames more, after the model's own: (B, F + count - 1, S,
        S, 3), of which the last `count` continue the video.
        """
        known, state = self.read(self.to_maps(frames), state)
        made = [known]
        for _ in range(count - 1):
            after, state = self.read(made[-1][:, -1:], state)
            made.append(after)
        return self.to_frames(torch.cat(made, dim=1))

    def read(self, maps: Tensor, state: ConvLSTMState | None) -> tuple[Tensor, ConvLSTMState]:
        """Read maps (B, F, 3 patch^2, R, R) of frames; those after each, and the state."""
        state = self.init_state(len(maps)) if state is None else state
        made = []
        for x in maps.unbind(1):
            after, h = [], x
            for layer, before in zip(self.layers, state, strict=True):
                after.append(layer(h, before))
                h = after[-1][0]
            state = tuple(after)
            made.append(self.out(h))
        return torch.stack(made, dim=1), state

    def to_maps(self, frames: Tensor) -> Tensor:
        size = self.config.size
        if frames.ndim != 5 or frames.shape[2:] != (size, size, 3) or not frames.numel():
            raise ValueError(
                f"frames are {tuple(frames.shape)}; they must be (batch, frames, {size}, {size}, 3)"
            )
        x = rearrange(frames.to(self.out.weight.dtype) / 255, "b f h w c -> b f c h w")
        return F.pixel_unshuffle(x, self.config.patch)

    def to_frames(self, maps: Tensor) -> Tensor:
        return rearrange(F.pixel_shuffle(maps, self.config.patch), "b f c h w -> b f h w c")


def check_sizes(config: ConvLSTMConfig) -> None:
    """Raise ValueError for a config that makes no model."""
    for name in ("size", "patch", "width", "depth", "kernel"):
        if (value := getattr(config, name)) < 1:
            raise ValueError(f"conv_lstm.{name} is {value}; it must be 1 or more")
    if config.size % config.patch:
        raise ValueError(
            f"conv_lstm.size is {config.size}; it must be a multiple of conv_lstm.patch, "
            f"{config.patch}"
        )
    if config.kernel % 2 == 0:
        raise ValueError(f"conv_lstm.kernel is {config.kernel}; it must be odd")
