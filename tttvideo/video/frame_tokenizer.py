"""Frames to tokens and back: a convolutional autoencoder with finite scalar quantisation.

There is no convolution over time: every frame is encoded alone, so streams have no seams. Each
patch of 8 x 8 pixels becomes one token, by default one of the 8 x 5 x 5 x 5 = 1000 points of a
small grid (finite scalar quantisation, arXiv 2309.15505).

N frames, S pixels of height and width, R = S / 8 rows and columns of tokens, P = R^2 tokens.
"""

from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .frame_codec import PATCH, FrameCodec


@dataclass
class FrameTokenizerConfig:
    size: int = 64
    """Height and width of a frame in pixels, a multiple of 8; every 8 x 8 patch is a token."""
    width: int = 32
    """Channels at half the token grid's stride; twice as many on the grid itself."""
    blocks: int = 2
    """Residual blocks on the token grid, in the encoder and in the decoder each."""
    levels: tuple[int, ...] = (8, 5, 5, 5)
    """Values of each quantised channel; their product is the vocabulary."""

    @property
    def grid(self) -> tuple[int, int]:
        return (self.size // PATCH, self.size // PATCH)

    @property
    def vocab_size(self) -> int:
        return prod(self.levels)


class FSQ(nn.Module):
    """Round each channel to one of its levels; gradients pass the rounding unchanged."""

    counts: Tensor
    bases: Tensor

    def __init__(self, levels: tuple[int, ...]):
        super().__init__()
        counts = torch.tensor(levels)
        bases = torch.cumprod(torch.tensor((1, *levels[:-1])), 0)
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("bases", bases, persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """The codes nearest to z (..., channels), each channel in [-1, 1]."""
        z = self.bound(z.float())
        return (z + (z.round() - z).detach()) / (self.counts // 2)

    def bound(self, z: Tensor) -> Tensor:
        """Squash a channel of n levels so that rounding gives n integers, lowest -(n // 2)."""
        half = (self.counts - 1) * 1.001 / 2
        offset: Tensor = (self.counts % 2 == 0) * 0.5  # an even count has no middle level
        return torch.tanh(z + torch.atanh(offset / half)) * half - offset

    def to_tokens(self, codes: Tensor) -> Tensor:
        """Codes (..., channels) to integers (...) below the product of the levels."""
        digits = (codes * (self.counts // 2)).round().long() + self.counts // 2
        return (digits * self.bases).sum(-1)

    def to_codes(self, tokens: Tensor) -> Tensor:
        """The inverse of `to_tokens`."""
        digits = tokens[..., None] // self.bases % self.counts
        return (digits - self.counts // 2) / (self.counts // 2)


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))


class FrameTokenizer(FrameCodec):
    """Frames (N, S, S, 3) uint8 RGB to tokens (N, P), raster order, and back."""

    def __init__(self, config: FrameTokenizerConfig):
        super().__init__()
        if config.size % PATCH or config.size < PATCH or config.width % 8:
            raise ValueError(
                f"frame size {config.size} and width {config.width} must be multiples of 8"
            )
        if min(config.levels) < 2:
            raise ValueError(f"levels are {config.levels}; each must be 2 or more")
        self.config = config
        wide, channels = 2 * config.width, len(config.levels)
        self.fsq = FSQ(config.levels)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(PATCH // 2),
            nn.Conv2d(3 * (PATCH // 2) ** 2, config.width, 3, padding=1),
            Residual(config.width),
            nn.Conv2d(config.width, wide, 4, stride=2, padding=1),
            *(Residual(wide) for _ in range(config.blocks)),
            nn.Conv2d(wide, channels, 1),
        )
        self.expand = nn.Conv2d(channels, wide, 1)
        self.place = nn.Parameter(torch.zeros(wide, *config.grid))  # for a fixed camera
        self.decoder = nn.Sequential(
            *(Residual(wide) for _ in range(config.blocks)),
            nn.Conv2d(wide, 4 * config.width, 1),
            nn.PixelShuffle(2),
            Residual(config.width),
            nn.Conv2d(config.width, 3 * (PATCH // 2) ** 2, 3, padding=1),
            nn.PixelShuffle(PATCH // 2),
        )

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructed frames, float (N, S, S, 3) near [0, 1], and tokens (N, P)."""
        x = self.encoder(rearrange(frames / 127.5 - 1, "n h w c -> n c h w"))
        codes = self.fsq(rearrange(x, "n c r s -> n r s c"))
        return self.pixels(codes), self.fsq.to_tokens(codes).flatten(1)

    def pixels(self, codes: Tensor) -> Tensor:
        """Codes (N, R, R, channels) to frames, float (N, S, S, 3) near [0, 1]."""
        x = self.expand(rearrange(codes, "n r s c -> n c r s")) + self.place
        return rearrange((self.decoder(x) + 1) / 2, "n c h w -> n h w c")

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """Frames (N, S, S, 3) uint8 to tokens (N, P)."""
        return self(frames)[1]

    @torch.inference_mode()
    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (N, P) to frames (N, S, S, 3) uint8."""
        codes = self.fsq.to_codes(tokens.unflatten(1, self.config.grid))
        return (self.pixels(codes).clamp(0, 1) * 255).round().to(torch.uint8)

    def codes(self) -> Tensor:
        """Codes (V, channels) of all tokens."""
        return self.fsq.to_codes(
            torch.arange(self.config.vocab_size, device=self.fsq.counts.device)
        )
