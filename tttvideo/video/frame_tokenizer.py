"""Frames to tokens and back: an autoencoder with finite scalar quantisation.

Every patch of 8 x 8 pixels becomes one token, by default one of the 8 x 5 x 5 x 5 = 1000 points of
a small grid (finite scalar quantisation, arXiv 2309.15505). A token is a function of its patch
alone: where no pixel changes no token changes, in space and in time, and streams have no seams. The
decoder sees a neighbourhood of tokens, so that neighbours add to what a token tells of an edge.
Norms are over the channels of one place: statistics of the whole frame would couple far patches.

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
    width: int = 64
    """Channels of the decoder, on the token grid."""
    blocks: int = 3
    """Residual blocks of the decoder; each widens what a patch is decoded from by two tokens."""
    hidden: int = 128
    """Width of the encoder's MLP, which reads one patch."""
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
    """x + f(norm(x)), f two maps with a nonlinearity before each; the second begins at 0."""

    def __init__(self, norm: nn.Module, first: nn.Module, second: nn.Conv2d | nn.Linear):
        super().__init__()
        self.norm, self.first, self.second = norm, first, second
        nn.init.zeros_(second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))


class ChannelNorm(nn.Module):
    """Channels (N, C, R, R) of each place divided by their root mean square."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6) * self.weight


def encoder_block(width: int) -> Residual:
    return Residual(nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width))


def decoder_block(width: int) -> Residual:
    first, second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
    return Residual(ChannelNorm(width), first, second)


COLOURS = 4  # of a patch
SHARP = 4.0  # factor of the channels that choose among them, which speeds their learning up
PAINT = (COLOURS * PATCH**2, COLOURS * 3, 3 * PATCH**2)
"""Channels that paint a patch: how much of each colour is in a pixel, the colours, the detail."""


def paint(channels: Tensor) -> Tensor:
    """Patches in a few colours each, plus detail: (N, sum(PAINT), R, R) to (N, 3, S, S).

    An edge between two colours is one pair of numbers a pixel, and colours between edges are even;
    a linear map has to sum up both from many features.
    """
    shares, colours, detail = channels.split(PAINT, dim=1)
    shares = (SHARP * shares).unflatten(1, (COLOURS, 1, PATCH**2)).softmax(1)
    painted = (shares * colours.unflatten(1, (COLOURS, 3, 1))).sum(1).flatten(1, 2)
    return F.pixel_shuffle(painted + detail, PATCH)


class FrameTokenizer(FrameCodec):
    """Frames (N, S, S, 3) uint8 RGB to tokens (N, P), raster order, and back."""

    def __init__(self, config: FrameTokenizerConfig):
        super().__init__()
        if config.size % PATCH or config.size < PATCH:
            raise ValueError(f"frame size {config.size} must be a multiple of {PATCH}")
        if min(config.levels) < 2:
            raise ValueError(f"levels are {config.levels}; each must be 2 or more")
        self.config = config
        pixels, channels = 3 * PATCH**2, len(config.levels)
        self.fsq = FSQ(config.levels)
        self.encoder = nn.Sequential(
            nn.Linear(pixels, config.hidden),
            encoder_block(config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, channels),
        )
        self.expand = nn.Conv2d(channels, config.width, 1)
        self.place = nn.Parameter(torch.zeros(config.width, *config.grid))  # for a fixed camera
        self.decoder = nn.Sequential(
            *(decoder_block(config.width) for _ in range(config.blocks)),
            nn.SiLU(),
            nn.Conv2d(config.width, sum(PAINT), 1),
        )

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructed frames, float (N, S, S, 3) near [0, 1], and tokens (N, P)."""
        codes = self.quantised(frames)
        return self.pixels(codes), self.fsq.to_tokens(codes).flatten(1)

    def quantised(self, frames: Tensor) -> Tensor:
        """The codes (N, R, R, channels) of frames."""
        x = frames / 127.5 - 1
        patches = rearrange(x, "n (r h) (s w) c -> n r s (h w c)", h=PATCH, w=PATCH)
        return self.fsq(self.encoder(patches))

    def pixels(self, codes: Tensor) -> Tensor:
        """Codes (N, R, R, channels) to frames, float (N, S, S, 3) near [0, 1]."""
        x = self.expand(rearrange(codes, "n r s c -> n c r s")) + self.place
        return rearrange((paint(self.decoder(x)) + 1) / 2, "n c h w -> n h w c")

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """Frames (N, S, S, 3) uint8 to tokens (N, P)."""
        return self.fsq.to_tokens(self.quantised(frames)).flatten(1)

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

    @property
    def levels(self) -> tuple[int, ...]:
        return self.config.levels
