"""The backbone: tokens in, logits for the next token out, and a state.

Text and video share it; a video frame is `grid` rows by columns of tokens, in raster order.

B batch, T tokens, C width, V vocabulary, P tokens per frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tttvideo.kernels import Packed
from tttvideo.mixers.mixer import Grid
from tttvideo.mixers.registry import MixerConfigs, MixerEntry, MixerName, find_mixer
from tttvideo.video.frame_window import FrameWindow

from .layers import ShortConv, SwiGLU, full
from .states import combine, run, state_dataclass


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
    """One state per block; for video also the place in the frame and the last tokens."""

    blocks: tuple[BlockState, ...]
    place: int
    recent: Tensor | None


AnyBlock = TypeVar("AnyBlock", BlockState, Packed[BlockState])
AnyState = TypeVar("AnyState", BackboneState, Packed[BackboneState])


class Block(nn.Module):
    """h + conv(norm(h)) if the mixer has a pre_conv; h + mixer(norm(h)); h + mlp(norm(h))."""

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

    def forward(self, x: Tensor, state: AnyBlock) -> tuple[Tensor, AnyBlock]:
        """Read x (B, T, C) from a state, or packed sequences in a row (1, T, C)."""
        mix = self.mixer.forward_packed if isinstance(state, Packed) else self.mixer
        return self.residuals(x, state, mix)

    def decode_(self, x: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        """As `forward` for one token of each sequence; may change `state` in place."""
        return self.residuals(x, state, self.mixer.decode_)

    def residuals(
        self, x: Tensor, state: AnyBlock, mix: Callable[..., Any]
    ) -> tuple[Tensor, AnyBlock]:
        """The sums of the block, with `mix` of its mixer."""
        tail = combine(lambda block: block.tail, state)
        if self.conv and self.conv_norm:
            y, tail = run(self.conv, self.conv_norm(x), tail)
            x = x + y
        y, mixer = mix(self.mixer_norm(x), combine(lambda block: block.mixer, state))
        x = x + y
        if self.mlp and self.mlp_norm:
            x = x + self.mlp(self.mlp_norm(x))
        return x, combine(BlockState, mixer, tail)


class Backbone(nn.Module):
    """A causal model of tokens: (tokens, state) -> (logits, state), the same for any cut."""

    def __init__(self, config: BackboneConfig):
        super().__init__()
        for name, least in (("width", 1), ("depth", 1), ("heads", 1), ("mlp_width", 0)):
            value = getattr(config, name)
            if value < least:
                raise ValueError(f"backbone.{name} is {value}; it must be {least} or more")
        if getattr(config.own, "causal", None) is False:
            raise ValueError(
                f"{config.entry.field}.causal false is for the frame model; a backbone of tokens "
                "would read tokens that it predicts"
            )
        if getattr(config.own, "address", "content") == "place":
            raise ValueError(
                "ttt.address place is for the frame model; a backbone of tokens has no places"
            )
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.places = None
        if config.grid:
            self.places = nn.Parameter(torch.empty(config.grid[0] * config.grid[1], config.width))
            nn.init.normal_(self.places, std=0.02)
        blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.blocks = cast(Sequence[Block], blocks)
        self.norm = nn.RMSNorm(config.width, config.norm_eps)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
        self.window = None
        if config.grid and config.window_frames:
            sizes = config.vocab_size, config.width
            self.window = FrameWindow(*sizes, config.grid, config.window_frames)

    def init_state(self, batch: int) -> BackboneState:
        blocks = tuple(block.init_state(batch) for block in self.blocks)
        return BackboneState(blocks, 0, self.window.init_state(batch) if self.window else None)

    def forward(self, tokens: Tensor, state: AnyState | None = None) -> tuple[Tensor, AnyState]:
        """Read tokens (B, T), integers below V; logits (B, T, V) for the token after each.

        state: before the first token, or a Packed of states of batch 1 for sequences that are
            concatenated in a row (1, T); None: the start of a text or video.
        Raises: ValueError for tokens that are not (B, T) or do not fit the packed lengths.
        """
        hidden, after = self.features(tokens, state)
        return self.head(hidden), after

    def features(
        self,
        tokens: Tensor,
        state: AnyState | None = None,
        blocks: Iterable[Callable[..., Any]] | None = None,
    ) -> tuple[Tensor, AnyState]:
        """As `forward`, with the inputs of `head` (B, T, C) in place of the logits.

        tokens: also their embeddings (B, T, C), for text.
        blocks: functions that take the place of the blocks.
        """
        if tokens.ndim != 2 + tokens.is_floating_point() or not tokens.numel():
            raise ValueError(f"tokens are {tuple(tokens.shape)}; they must be (batch, tokens)")
        start: Any = self.init_state(len(tokens)) if state is None else state
        if isinstance(state, Packed) and tokens.shape[:2] != (1, sum(state.lengths)):
            raise ValueError(
                f"tokens are {tuple(tokens.shape)}; the packed lengths {state.lengths} need "
                f"(1, {sum(state.lengths)})"
            )
        return self.through(self.blocks if blocks is None else blocks, tokens, start)

    def through(
        self, blocks: Iterable[Callable[..., Any]], tokens: Tensor, state: AnyState
    ) -> tuple[Tensor, AnyState]:
        """The inputs of `head` (B, T, C) by these functions of the blocks, and the state after."""
        if self.places is None:  # text, in one call for all packed sequences
            x = tokens if tokens.is_floating_point() else self.embedding(tokens)
        else:
            x, state = run(self.embed, tokens, state)
        states = []
        for i, block in enumerate(blocks):
            x, after = block(x, combine(partial(block_state, i), state))
            states.append(after)
        return self.norm(x), combine(with_blocks, state, *states)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) with the embedding's weights, in float32 or float64."""
        return full(F.linear(hidden, self.embedding.weight))

    def embed(self, tokens: Tensor, state: BackboneState) -> tuple[Tensor, BackboneState]:
        """Input of the first block (B, T, C) from tokens of video, and the state, advanced except
        for its blocks.
        """
        assert self.places is not None
        steps = torch.arange(state.place, state.place + tokens.shape[1], device=tokens.device)
        x = self.embedding(tokens) + self.places[steps % len(self.places)]
        place, recent = (state.place + tokens.shape[1]) % len(self.places), state.recent
        if self.window:
            near, recent = self.window(tokens, recent, state.place)
            x = x + near
        return x, BackboneState(state.blocks, place, recent)

    def start_decoding(self, state: BackboneState) -> BackboneState:
        """The state for `decode_`, which changes no memory of `state`."""
        return self.map_mixers("start_decoding", state)

    @torch.no_grad()
    def decode_(self, tokens: Tensor, state: BackboneState) -> tuple[Tensor, BackboneState]:
        """As `forward` for one token of each sequence, (B, 1); may change `state` in place."""
        hidden, state = self.through([block.decode_ for block in self.blocks], tokens, state)
        return self.head(hidden), state

    def finish_decoding(self, state: BackboneState) -> BackboneState:
        """The state for `forward`, a copy, after the tokens that `decode_` read."""
        return self.map_mixers("finish_decoding", state)

    def detach_carry(self, state: BackboneState) -> BackboneState:
        """The part of a state that a lane carries to the next window, without its history."""
        return self.map_mixers("detach_carry", state)

    def attach_carry(self, carry: BackboneState) -> BackboneState:
        """The state to continue from, made from the result of `detach_carry`."""
        return self.map_mixers("attach_carry", carry)

    def map_mixers(self, method: str, state: BackboneState) -> BackboneState:
        """Apply a method of each block's mixer to its state; the other parts are detached."""
        blocks = []
        for block, one in zip(self.blocks, state.blocks, strict=True):
            tail = one.tail if one.tail is None else one.tail.detach()
            blocks.append(BlockState(getattr(block.mixer, method)(one.mixer), tail))
        return with_blocks(state, *blocks)


def block_state(i: int, state: BackboneState) -> BlockState:
    return state.blocks[i]


def with_blocks(state: BackboneState, *blocks: BlockState) -> BackboneState:
    return BackboneState(blocks, state.place, state.recent)
