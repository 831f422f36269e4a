"""What a frame model's memory is worth: bits by the age of what is seen, with its own state or not.

The control is the state swap: the same model, the same frames, another video's memory.

B batch, F frames, P tokens per frame, S pixels of height and width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from tttvideo.backbone import BackboneState
from tttvideo.sampling.frame_streams import FramePrefix, score_frames
from tttvideo.states import tree_map
from tttvideo.video.conditions import NOTHING, Conditions
from tttvideo.video.frame_model import FrameModel, FrameModelState


S = TypeVar("S", bound=FrameModelState | BackboneState)

AGES = {"1": (1, 2), "2 to 7": (2, 8), "8 or more": (8, 1 << 62), "never": (-1, 0)}
"""Groups of tokens by the frames since what they show was last seen, from and below."""
COLOURED = 100  # the brightest channel of a pixel that is no background, above
ALIVE = 0.6, 1.6  # least and largest coloured area of a roll-out, as a share of the truth's


def bits_by_age(bits: Tensor, ages: Tensor) -> dict[str, float]:
    """Mean bits per token of each group of AGES that occurs; bits, ages: (B, F, P)."""
    found = {}
    for name, (least, below) in AGES.items():
        inside = (ages >= least) & (ages < below)
        if inside.any():
            found[name] = bits[inside].mean().item()
    return found


def with_memory(state: S, other: FrameModelState | BackboneState) -> S:
    """A state with the memories of another; the window of the last frames and the pose stay."""
    return replace(state, blocks=other.blocks)


def swapped(state: S) -> S:
    """The states of a batch, each with the memory of the video before it."""
    return with_memory(state, tree_map(lambda x: x.roll(1, 0), state))


@torch.inference_mode()
def state_swap(
    model: FrameModel, frames: Tensor, ages: Tensor, seen: int, conditions: Conditions = NOTHING
) -> dict[str, dict[str, float]]:
    """Bits by age of frames (B, F, P) after the first `seen`, with three memories of these.

    own: the video's; other: another video's; fresh: the learned start. Frame `seen` is read with
    each of them, and the frames after it are scored.
    ages: (B, F, P) of all frames.
    """
    _, prefix = score_frames(model, frames[:, :seen], None, conditions.frames(0, seen))
    state, fresh = prefix.state, model.init_state(len(frames))
    memories = {"own": state, "other": swapped(state), "fresh": with_memory(state, fresh)}
    rest = conditions.frames(seen, frames.shape[1])
    found = {}
    for name, memory in memories.items():
        start = replace(prefix, state=memory)
        bits, _ = score_frames(model, frames[:, seen:], start, rest)
        found[name] = bits_by_age(bits[:, 1:], ages[:, seen + 1 :])
    return found


@torch.inference_mode()
def remember(
    model: FrameModel,
    frames: Tensor,
    conditions: Conditions = NOTHING,
    memory: FrameModelState | None = None,
) -> FramePrefix:
    """The prefix of frames (B, F, P), of which the last is read with `memory`; None: their own."""
    last = frames.shape[1] - 1
    _, prefix = score_frames(model, frames[:, :last], None, conditions.frames(0, last))
    if memory is not None:
        prefix = replace(prefix, state=with_memory(prefix.state, memory))
    return score_frames(model, frames[:, last:], prefix, conditions.frames(last, last + 1))[1]


@torch.inference_mode()
def bits_by_frame(model: FrameModel, frames: Tensor, conditions: Conditions = NOTHING) -> Tensor:
    """Mean bits (F,) of each frame of videos (B, F, P), given all frames before it."""
    bits, _ = score_frames(model, frames, None, conditions)
    return bits.sum(-1).mean(0)


def coloured_area(images: Tensor) -> Tensor:
    """Pixels (...) of images (..., S, S, 3) uint8 that are no dark background."""
    return (images.amax(-1) > COLOURED).sum((-1, -2))


def alive(images: Tensor, truth: Tensor) -> Tensor:
    """Share (F,) of roll-outs (B, F, S, S, 3) uint8 whose coloured area is near the truth's."""
    share = coloured_area(images) / coloured_area(truth).clamp_min(1)
    least, most = ALIVE
    return ((share >= least) & (share <= most)).double().mean(0)
