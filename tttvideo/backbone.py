"""The backbone: tokens in, logits for the next token out, and a state of constant size.

Text and video share it; a video's frames are `grid` rows by columns of tokens, in raster order.

B batch, T tokens, C width, V vocabulary, P tokens per frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import FrameWindow, ShortConv, SwiGLU
from .ttt import Grid, TTTConfig, TTTLayer, TTTState


@dataclass
class BackboneConfig:
    vocab_size: int = 256
    """Tokens in the vocabulary; `fit` takes it from the token file."""
    width: int = 128
    """Features of a token between the blocks, C."""
    depth: int = 4
    """Blocks."""
    heads: int = 4
    """Heads of each mixer; width / heads is the head dim."""
    mlp_width: int = 352
    """Hidden features of each SwiGLU."""
    norm_eps: float = 1e-6
    """Epsilon of the RMSNorms."""
    grid: Grid | None = None
    """Rows and columns of tokens in a video frame; null for text; `fit` takes it from the file."""
    window_frames: int = 0
    """Last frames whose tokens around the next place are shown to each token; for video only."""
    ttt: TTTConfig = field(default_factory=TTTConfig)
    """The TTT layer."""


@dataclass(frozen=True)
class BlockState:
    mixer: TTTState
    tail: Tensor | None


@dataclass(frozen=True)
class BackboneState:
    """One state per block, the number of tokens seen, and for video the last of them."""

    blocks: tuple[BlockState, ...]
    seen: int
    recent: Tensor | None


class Block(nn.Module):
    """h + conv(norm(h)), if the mixer wants it; then h + mixer(norm(h)); then h + mlp(norm(h))."""

    def __init__(self, config: BackboneConfig):
        super().__init__()
        width = config.width
        self.mixer = TTTLayer(width, config.heads, config.ttt, config.grid)
        ttt = self.mixer.config
        self.conv_norm = nn.RMSNorm(width, config.norm_eps) if ttt.pre_conv else None
        self.conv = ShortConv(width, ttt.conv_kernel) if ttt.pre_conv else None
        self.mixer_norm = nn.RMSNorm(width, config.norm_eps)
        self.mlp_norm = nn.RMSNorm(width, config.norm_eps)
        self.mlp = SwiGLU(width, config.mlp_width)

    def init_state(self, batch: int) -> BlockState:
        tail = self.conv.init_state(batch) if self.conv else None
        return BlockState(self.mixer.init_state(batch), tail)

    def forward(self, x: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        tail = state.tail
        if self.conv:
            y, tail = self.conv(self.conv_norm(x), tail)
            x = x + y
        y, mixer = self.mixer(self.mixer_norm(x), state.mixer)
        x = x + y
        return x + self.mlp(self.mlp_norm(x)), BlockState(mixer, tail)


class Backbone(nn.Module):
    """A causal model of tokens: (tokens, state) -> (logits, state); any cut gives the same."""

    def __init__(self, config: BackboneConfig):
        super().__init__()
        for name in ("width", "depth", "heads", "mlp_width"):
            if getattr(config, name) < 1:
                raise ValueError(
                    f"backbone.{name} is {getattr(config, name)}; it must be 1 or more"
                )
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.places = None
        if config.grid:
            self.places = nn.Parameter(torch.empty(config.grid[0] * config.grid[1], config.width))
            nn.init.normal_(self.places, std=0.02)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.width, config.norm_eps)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
        self.window = None
        if config.grid and config.window_frames:
            self.window = FrameWindow(
                config.vocab_size, config.width, config.grid, config.window_frames
            )

    def init_state(self, batch: int) -> BackboneState:
        blocks = tuple(block.init_state(batch) for block in self.blocks)
        return BackboneState(blocks, 0, self.window.init_state(batch) if self.window else None)

    def forward(
        self, tokens: Tensor, state: BackboneState | None = None
    ) -> tuple[Tensor, BackboneState]:
        """tokens (B, T) integers below V; logits (B, T, V) float32 for the token that follows each.

        Raises ValueError when tokens are not (B, T).
        """
        if tokens.ndim != 2 or not tokens.numel():
            raise ValueError(f"tokens are {tuple(tokens.shape)}; they must be (batch, tokens)")
        state = self.init_state(len(tokens)) if state is None else state
        x = self.embedding(tokens)
        if self.places is not None:
            steps = torch.arange(state.seen, state.seen + tokens.shape[1], device=tokens.device)
            x = x + self.places[steps % len(self.places)]
        recent = state.recent
        if self.window:
            near, recent = self.window(tokens, recent, state.seen)
            x = x + near
        states = []
        for block, block_state in zip(self.blocks, state.blocks, strict=True):
            x, block_state = block(x, block_state)
            states.append(block_state)
        logits = F.linear(self.norm(x), self.embedding.weight)
        seen = state.seen + tokens.shape[1]
        return logits.float(), BackboneState(tuple(states), seen, recent)
