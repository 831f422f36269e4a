"""The backbone: tokens in, logits for the next token out, and a state of constant size.

Text and video share it; a video's frames are `grid` rows by columns of tokens, in raster order.

B batch, T tokens, C width, V vocabulary, P tokens per frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tttvideo.mixers.mixer import Grid
from tttvideo.mixers.registry import MixerConfigs, MixerEntry, MixerName, find_mixer
from tttvideo.mixers.ttt import TTTLayer, full

from .layers import FrameWindow, ShortConv, SwiGLU
from .states import each, lengths_of, state_dataclass


@dataclass
class BackboneSizes:
    """The fields of BackboneConfig that are no mixer's own."""

    vocab_size: int = 256
    """Tokens in the vocabulary; `fit` takes it from the token file."""
    width: int = 128
    """Features of a token between the blocks, C."""
    depth: int = 4
    """Blocks."""
    heads: int = 4
    """Heads of each mixer; width / heads is the head dim. Mamba and Mamba-2 ignore it."""
    mlp_width: int = 352
    """Hidden features of each SwiGLU; 0: none, as in the published Mamba models."""
    norm_eps: float = 1e-6
    """Epsilon of the RMSNorms."""
    grid: Grid | None = None
    """Rows and columns of tokens in a video frame; null for text; `fit` takes it from the file."""
    window_frames: int = 0
    """Past frames whose tokens around the next place are an input of each token; video only."""
    mixer: MixerName = "ttt"
    """The mixer of every block; the configs of the other mixers are ignored."""


@dataclass
class BackboneConfig(MixerConfigs, BackboneSizes):
    """Sizes, name of the mixer, and the configs of all mixers."""

    @property
    def entry(self) -> MixerEntry:
        """The mixer's entry in the registry; ValueError for an unknown name."""
        return find_mixer(self.mixer)

    @property
    def own(self) -> Any:
        """The mixer's config as it was given."""
        return getattr(self, self.entry.field)

    @property
    def resolved(self) -> Any:
        """The mixer's config without nulls."""
        return self.entry.mixer.resolve(self.own, self.grid)


@state_dataclass
class BlockState:
    mixer: Any
    tail: Tensor | None


@state_dataclass
class BackboneState:
    """One state per block; for video the place in the frame, and the last tokens."""

    blocks: tuple[BlockState, ...]
    place: int
    recent: Tensor | None


class Block(nn.Module):
    """h + conv(norm(h)), if TTT wants it; then h + mixer(norm(h)); then h + mlp(norm(h))."""

    def __init__(self, config: BackboneConfig):
        super().__init__()
        width = config.width
        self.mixer = config.entry.mixer(width, config.heads, config.own, config.grid)
        taps = self.mixer.pre_conv
        self.conv_norm = nn.RMSNorm(width, config.norm_eps) if taps else None
        self.conv = ShortConv(width, taps) if taps else None
        self.mixer_norm = nn.RMSNorm(width, config.norm_eps)
        self.mlp_norm = nn.RMSNorm(width, config.norm_eps) if config.mlp_width else None
        self.mlp = SwiGLU(width, config.mlp_width) if config.mlp_width else None

    def init_state(self, batch: int) -> BlockState:
        tail = self.conv.init_state(batch) if self.conv else None
        return BlockState(self.mixer.init_state(batch), tail)

    def forward(
        self, x: Tensor, state: BlockState | list[BlockState], cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, BlockState | list[BlockState]]:
        """As the mixer; with cu_seqlens x is packed, (1, T, C), with a state per sequence."""
        packed = cu_seqlens is not None
        states = state if packed else [state]
        lengths = lengths_of(cu_seqlens) if packed else [x.shape[1]]
        tails = [one.tail for one in states]
        if self.conv:
            y, tails = each(self.conv, self.conv_norm(x), tails, lengths)
            x = x + y
        mixers = [one.mixer for one in states]
        if packed and isinstance(self.mixer, TTTLayer):
            y, mixers = self.mixer(self.mixer_norm(x), mixers, cu_seqlens)
        else:
            y, mixers = each(self.mixer, self.mixer_norm(x), mixers, lengths)
        x = x + y
        if self.mlp:
            x = x + self.mlp(self.mlp_norm(x))
        states = [BlockState(*both) for both in zip(mixers, tails, strict=True)]
        return x, states if packed else states[0]


class Backbone(nn.Module):
    """A causal model of tokens: (tokens, state) -> (logits, state); any cut gives the same."""

    def __init__(self, config: BackboneConfig):
        super().__init__()
        for name, least in (("width", 1), ("depth", 1), ("heads", 1), ("mlp_width", 0)):
            if getattr(config, name) < least:
                raise ValueError(
                    f"backbone.{name} is {getattr(config, name)}; it must be {least} or more"
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
        self,
        tokens: Tensor,
        state: BackboneState | Sequence[BackboneState] | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, BackboneState | list[BackboneState]]:
        """Read tokens (B, T), integers below V; logits (B, T, V) for what follows each.

        With cu_seqlens (S + 1,) int32, sequences of any lengths lie packed in one row, (1, T), each
        from one of these borders to the next, and `state` has an entry of batch 1 per sequence, as
        the result then has. Raises ValueError when tokens are not (B, T).
        """
        hidden, state = self.features(tokens, state, cu_seqlens)
        return self.head(hidden), state

    def features(
        self,
        tokens: Tensor,
        state: BackboneState | Sequence[BackboneState] | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, BackboneState | list[BackboneState]]:
        """As `forward`, with what `head` makes logits of, (B, T, C), in their place."""
        if tokens.ndim != 2 or not tokens.numel():
            raise ValueError(f"tokens are {tuple(tokens.shape)}; they must be (batch, tokens)")
        packed = cu_seqlens is not None
        if state is None:
            new = [self.init_state(1)] * (len(cu_seqlens) - 1) if packed else None
            state = new or self.init_state(len(tokens))
        states = state if packed else [state]
        lengths = lengths_of(cu_seqlens) if packed else [tokens.shape[1]]
        x, states = each(self.embed, tokens, states, lengths)
        for i, block in enumerate(self.blocks):
            before = [one.blocks[i] for one in states]
            x, after = block(x, before if packed else before[0], cu_seqlens)
            after = after if packed else [after]
            states = [with_block(one, i, b) for one, b in zip(states, after, strict=True)]
        return self.norm(x), states if packed else states[0]

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) by the embedding's weights, in float32, or in float64 if all is."""
        return full(F.linear(hidden, self.embedding.weight))

    def embed(self, tokens: Tensor, state: BackboneState) -> tuple[Tensor, BackboneState]:
        """What the first block reads, (B, T, C), and the state, gone on but for its blocks."""
        x, place, recent = self.embedding(tokens), 0, state.recent
        if self.places is not None:
            steps = torch.arange(state.place, state.place + tokens.shape[1], device=tokens.device)
            x = x + self.places[steps % len(self.places)]
            place = (state.place + tokens.shape[1]) % len(self.places)
        if self.window:
            near, recent = self.window(tokens, recent, state.place)
            x = x + near
        return x, BackboneState(state.blocks, place, recent)

    def detach_carry(self, state: BackboneState) -> BackboneState:
        """What a lane carries from one training window to the next, without its history."""
        return self.map_mixers("detach_carry", state)

    def attach_carry(self, state: BackboneState) -> BackboneState:
        """The state to go on from, of what `part` gave."""
        return self.map_mixers("attach_carry", state)

    def map_mixers(self, method: str, state: BackboneState) -> BackboneState:
        blocks = []
        for block, one in zip(self.blocks, state.blocks, strict=True):
            tail = one.tail if one.tail is None else one.tail.detach()
            blocks.append(BlockState(getattr(block.mixer, method)(one.mixer), tail))
        return BackboneState(tuple(blocks), state.place, state.recent)


def with_block(state: BackboneState, i: int, block: BlockState) -> BackboneState:
    blocks = (*state.blocks[:i], block, *state.blocks[i + 1 :])
    return BackboneState(blocks, state.place, state.recent)
