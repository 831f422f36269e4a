"""Frames of few colours to tokens and back, without loss: every 8 x 8 patch has one colour.

N frames, S pixels of height and width, P tokens per frame, V colours.
"""

import colorsys
from dataclasses import dataclass

import torch
from einops import repeat
from torch import Tensor

from .frame_codec import PATCH, FrameCodec


@dataclass
class PaletteConfig:
    size: int = 32
    """Height and width of a frame in pixels, a multiple of 8; every 8 x 8 patch is a token."""
    colours: int = 8
    """The number of colours, greys included, which is the vocabulary."""
    greys: int = 0
    """The first so many of the colours are greys, from nearly black to white."""

    @property
    def grid(self) -> tuple[int, int]:
        return (self.size // PATCH, self.size // PATCH)

    @property
    def vocab_size(self) -> int:
        return self.colours


class PaletteTokenizer(FrameCodec):
    """Frames whose patches each have one colour of a palette; no weights."""

    palette: Tensor

    def __init__(self, config: PaletteConfig):
        super().__init__()
        if config.size % PATCH or config.size < PATCH or config.colours < 1:
            raise ValueError(
                f"frame size {config.size} must be a multiple of 8, and there must be a colour, "
                f"not {config.colours}"
            )
        assert 0 <= config.greys <= config.colours
        self.config = config
        bright = distinct_colours(config.colours - config.greys)
        palette = torch.cat((distinct_greys(config.greys), bright))
        self.register_buffer("palette", palette, persistent=False)

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (N, S, S, 3) uint8 to tokens (N, P). Raises ValueError for other colours."""
        tokens = (frames[:, ::PATCH, ::PATCH, None] == self.palette).all(-1).int().argmax(-1)
        tokens = tokens.flatten(1)
        if not torch.equal(self.decode(tokens), frames):
            raise ValueError(
                f"a frame is not made of {PATCH} x {PATCH} patches of the palette's "
                f"{self.config.colours} colours; train a frame tokenizer for it"
            )
        return tokens

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (N, P) to frames (N, S, S, 3) uint8."""
        cells = self.palette[tokens.unflatten(1, self.config.grid)]
        return repeat(cells, "n r s c -> n (r h) (s w) c", h=PATCH, w=PATCH)

    def codes(self) -> Tensor:
        """Codes (V, 0): no two colours are alike."""
        return torch.empty(self.config.colours, 0, device=self.palette.device)

    @property
    def levels(self) -> tuple[int, ...]:
        return (self.config.colours,)


def distinct_greys(count: int) -> Tensor:
    """Greys (count, 3) uint8, from nearly black to white."""
    return torch.linspace(20, 255, count).round().to(torch.uint8)[:, None].expand(-1, 3)


def distinct_colours(count: int) -> Tensor:
    """Colours (count, 3) uint8 around the colour circle, from bright to dark by turns."""
    hues = ((n / count, 0.75, (1.0, 0.6)[n % 2]) for n in range(count))
    colours = torch.tensor([colorsys.hsv_to_rgb(*hue) for hue in hues]).view(-1, 3)
    return (colours * 255).round().to(torch.uint8)
