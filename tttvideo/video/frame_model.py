"""The frame model: a frame of tokens in, one vector per token of the next frame out, and a state.

It reads a frame as a whole. Attention inside the frame, a window of the last frames, a mixer as the
memory of all frames, and MLPs are each a key of the config. The head makes the next frame's tokens
from the vectors.

B batch, F frames, P tokens per frame, C width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from tttvideo.layers import SwiGLU, init_by_fan_in
from tttvideo.mixers.mixer import Address, Grid
from tttvideo.mixers.registry import MixerConfigs, MixerEntry, MixerName, find_mixer
from tttvideo.mixers.ttt import TTTConfig
from tttvideo.states import state_dataclass

from .address import AddressConfig, PlaceAddress, shifts_of_moves
from .attention import FrameAttention
from .conditions import NOTHING, ConditionEmbedding, Conditions, ConditionsConfig
from .frame_head import FrameHead, HeadConfig
from .frame_window import PastFrames
from .shared_digits import Table


@dataclass
class FrameModelSizes:
    """The fields of FrameModelConfig that are no mixer's own."""

    vocab_size: int = 1000
    """Tokens in the vocabulary; `fit` takes it from the token file."""
    grid: Grid = (8, 8)
    """Rows and columns of tokens in a frame; `fit` takes it from the token file."""
    width: int = 128
    """Features of a token between the blocks, C."""
    depth: int = 2
    """Blocks."""
    heads: int = 4
    """Heads of the mixers and of attention; width / heads is the head dim."""
    mlp_width: int = 352
    """Hidden features of each SwiGLU; 0: none, except in the head."""
    norm_eps: float = 1e-6
    """Epsilon of the LayerNorms."""
    window_frames: int = 2
    """Last frames whose 3 x 3 tokens around each token are its input; 0: the token alone."""
    in_frame: bool = True
    """Attention between all tokens of a frame, in every block."""
    mixer: MixerName | None = "ttt"
    """The memory; null: none, so that the model sees its window alone. The configs of the other
    mixers are ignored."""
    first_mixer: int = 0
    """The first block with a mixer; all after it have one too."""
    address: AddressConfig = field(default_factory=AddressConfig)
    """Poses, by which a memory can be addressed."""
    conditions: ConditionsConfig = field(default_factory=ConditionsConfig)
    """What is known of each frame besides its tokens and its pose."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """What makes the tokens of the next frame."""


@dataclass
class FrameModelConfig(MixerConfigs, FrameModelSizes):
    """Sizes, parts, name of the mixer, and the configs of all mixers."""

    @property
    def entry(self) -> MixerEntry | None:
        """The mixer's entry in the registry; ValueError for an unknown name."""
        return find_mixer(self.mixer) if self.mixer else None

    @property
    def own(self) -> Any:
        """The mixer's config; it reads whole frames, and TTT convolves no neighbours in raster
        order, unless its config says so."""
        return whole_frames(getattr(self, self.entry.field)) if self.entry else None


def whole_frames(own: Any) -> Any:
    defaults: dict[str, Any] = {"causal": False}
    if isinstance(own, TTTConfig):
        defaults = {"share_qk": False, "pre_conv": False, "causal": not own.norm}
    return replace(own, **{n: x for n, x in defaults.items() if getattr(own, n, x) is None})


def check_addresses(config: FrameModelConfig) -> None:
    """Raise ValueError for a TTT layer of places without poses, and for poses that nobody reads."""
    poses, address = config.address.poses, config.ttt.address
    if config.mixer != "ttt":
        return
    if address == "place" and poses == "none":
        raise ValueError("ttt.address is place and address.poses none; say what a pose is")
    if address == "content" and poses != "none" and not config.address.as_input:
        raise ValueError(
            f"address.poses is {poses}, and nobody reads them: set ttt.address to place, or "
            "address.as_input to true"
        )


@state_dataclass
class FrameModelState:
    """A state per block, None without a mixer; the last frames; the pose, if actions are summed."""

    blocks: tuple[Any, ...]
    recent: Tensor | None
    pose: Tensor | None


class FrameBlock(nn.Module):
    """h + attention(norm(h)) in the frame; h + mixer(norm(h)); h + mlp(norm(h))."""

    def __init__(self, config: FrameModelConfig, place: int):
        super().__init__()
        width, eps = config.width, config.norm_eps
        entry = config.entry if place >= config.first_mixer else None
        self.attention_norm = nn.LayerNorm(width, eps, bias=False) if config.in_frame else None
        self.attention = FrameAttention(width, config.heads) if config.in_frame else None
        self.mixer_norm = nn.LayerNorm(width, eps, bias=False) if entry else None
        self.mixer = entry.mixer(width, config.heads, config.own, config.grid) if entry else None
        self.mlp_norm = nn.LayerNorm(width, eps, bias=False) if config.mlp_width else None
        self.mlp = SwiGLU(width, config.mlp_width) if config.mlp_width else None

    def init_state(self, batch: int) -> Any:
        return self.mixer.init_state(batch) if self.mixer else None

    def forward(self, x: Tensor, state: Any, address: Address | None) -> tuple[Tensor, Any]:
        """Read x (B, F, P, C) from the state of the mixer on."""
        if self.attention and self.attention_norm:
            frames = self.attention_norm(x).flatten(0, 1)
            x = x + self.attention(frames, *self.attention.look_at(frames)).view_as(x)
        if self.mixer and self.mixer_norm:
            y, state = self.mixer(self.mixer_norm(x).flatten(1, 2), state, address)
            x = x + y.view_as(x)
        if self.mlp and self.mlp_norm:
            x = x + self.mlp(self.mlp_norm(x))
        return x, state


class FrameModel(nn.Module):
    """A model of whole frames: (frames, state, conditions) -> (vectors, state), for any cut."""

    def __init__(self, config: FrameModelConfig):
        super().__init__()
        for name, least in (("width", 1), ("depth", 1), ("heads", 1), ("window_frames", 0)):
            value = getattr(config, name)
            if value < least:
                raise ValueError(f"model.{name} is {value}; it must be {least} or more")
        if not 0 <= config.first_mixer < config.depth:
            raise ValueError(
                f"model.first_mixer is {config.first_mixer}; it must be 0 or more and "
                f"below model.depth, which is {config.depth}"
            )
        check_addresses(config)
        self.config = config
        width, grid = config.width, config.grid
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.places = nn.Parameter(torch.empty(grid[0] * grid[1], width))
        nn.init.normal_(self.places, std=0.02)
        self.conditions = ConditionEmbedding(config.conditions, width)
        self.address = None
        if config.address.poses != "none":
            self.address = PlaceAddress(config.address, width, grid)
        blocks = nn.ModuleList(FrameBlock(config, place) for place in range(config.depth))
        self.blocks = cast(Sequence[FrameBlock], blocks)
        self.norm = nn.LayerNorm(width, config.norm_eps, bias=False)
        sizes = width, config.heads, config.mlp_width or 2 * width
        self.head = FrameHead(config.head, config.vocab_size, *sizes, grid, config.norm_eps)
        as_input = config.address.as_input
        self.pose_input = nn.Linear(2 * width, width, bias=False) if as_input else None
        self.init_weights()
        self.window = None
        if config.window_frames:
            self.window = PastFrames(config.vocab_size, width, grid, config.window_frames)

    def init_weights(self) -> None:
        """Weights start at 0.02, those before the memory by fan-in: short keys change it too little
        and it learns to remember late, or never. Its output starts small, or it hides the tokens.
        """
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.normal_(self.head.near_embedding.weight, std=0.1)
        for part in (self.address, *(block.mixer for block in self.blocks)):
            if part:
                init_by_fan_in(part, without=("o_proj", "out_proj"))

    def tables(self) -> list[Table]:
        """Parts whose weight has a row for each token, and perhaps one more."""
        head = self.head
        tables: list[Table] = [self.embedding, head.embedding, head.near_embedding, head.out]
        return [*tables, self.window.embedding] if self.window else tables

    def init_state(self, batch: int) -> FrameModelState:
        blocks = tuple(block.init_state(batch) for block in self.blocks)
        recent = self.window.init_state(batch) if self.window else None
        pose = self.places.new_zeros(batch, 2) if self.config.address.moves else None
        return FrameModelState(blocks, recent, pose)

    def forward(
        self,
        frames: Tensor,
        state: FrameModelState | None = None,
        conditions: Conditions = NOTHING,
        blocks: Iterable[Callable[..., Any]] | None = None,
    ) -> tuple[Tensor, FrameModelState]:
        """Read frames (B, F, P), integers below V: vectors (B, F, P, C) of the frame after each.

        state: before the first frame; None: the start of a video.
        blocks: functions that take the place of the blocks.
        Raises: ValueError for frames of another shape.
        """
        P = len(self.places)
        if frames.ndim != 3 or frames.shape[2] != P or not frames.numel():
            raise ValueError(f"frames are {tuple(frames.shape)}; they must be (batch, frames, {P})")
        state = self.init_state(len(frames)) if state is None else state
        x = self.embedding(frames) + self.places + self.conditions(conditions, frames)
        recent = None
        if self.window:
            near, recent = self.window(frames, state.recent)
            x = x + near
        address, pose = self.find(conditions, state.pose)
        if self.pose_input and address:
            # of length one, or few steps of Adam make it drown the tokens
            both = torch.cat(address, dim=-1) * (2 * self.config.width) ** -0.5
            x = x + self.pose_input(both).view_as(x)
        states = []
        blocks = self.blocks if blocks is None else blocks
        for block, before in zip(blocks, state.blocks, strict=True):
            x, after = block(x, before, address)
            states.append(after)
        return self.norm(x), FrameModelState(tuple(states), recent, pose)

    def find(
        self, conditions: Conditions, pose: Tensor | None
    ) -> tuple[Address | None, Tensor | None]:
        """Addresses of the tokens, or None; and the pose of the frame to come, if it is summed."""
        poses, moves = conditions.poses, self.config.address.moves
        if self.address is None:
            return None, None
        if moves and pose is not None:
            if conditions.actions is None:
                raise ValueError("this model sums actions for its poses, and there are none")
            poses, pose = shifts_of_moves(conditions.actions, moves, pose)
        if poses is None:
            raise ValueError("this model addresses its memory by poses, and there are none")
        return self.address(poses), pose

    def detach_carry(self, state: FrameModelState) -> FrameModelState:
        """The part of a state that a lane carries to the next window, without its history."""
        return self.map_mixers("detach_carry", state)

    def attach_carry(self, carry: FrameModelState) -> FrameModelState:
        """The state to continue from, made from the result of `detach_carry`."""
        return self.map_mixers("attach_carry", carry)

    def map_mixers(self, method: str, state: FrameModelState) -> FrameModelState:
        """Apply a method of each block's mixer to its state."""
        both = zip(self.blocks, state.blocks, strict=True)
        blocks = [getattr(b.mixer, method)(one) if b.mixer else one for b, one in both]
        return FrameModelState(tuple(blocks), state.recent, state.pose)
