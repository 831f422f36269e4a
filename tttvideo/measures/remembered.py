"""What a trained frame model remembers of videos: bits by the age of what is seen again.

Own: the state that has read the video. At some frames the memory is replaced, and the next frames
are scored again: other: by another video's; fresh: by the learned start; last w: by one that
started fresh w frames before. The window of the last frames stays the video's own, so that the
differences are those of the memory. Counted are tokens whose last sight was before the swap, those
that the last frame shows (age 1), and those never seen.

B videos of a batch, F frames, P tokens per frame, V vocabulary, G groups of ages, L shares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tttvideo.data.video.conditions import find_condition, read_condition
from tttvideo.data.video.drawn.cells import NEVER
from tttvideo.data.video.pose_cells import pose_visits
from tttvideo.sampling.frame_streams import FramePrefix, score_frames
from tttvideo.video.conditions import Conditions
from tttvideo.video.frame_codec import FrameCodec
from tttvideo.video.frame_model import FrameModel, FrameModelState
from tttvideo.weights.video_checkpoints import VideoCheckpoint

from .memory import swapped, with_memory
from .video_data import OpenedVideo, VideoBatch, batches, encode


GROUPS = {
    "1": (1, 2),
    "2 to 7": (2, 8),
    "8 to 15": (8, 16),
    "16 to 31": (16, 32),
    "32 to 63": (32, 64),
    "64 or more": (64, 1 << 62),
    "never": (NEVER, NEVER + 1),
}
"""Groups of tokens by their age, the frames since what they show was last seen, from and below."""
OLD = 8  # frames after which a sight counts as seen again
SHARES = np.arange(0, 1, 0.05)  # of a copied token, of which the best is taken for each group
MOST_AT_ONCE = 16  # videos of a batch


@dataclass(frozen=True)
class SwapSettings:
    """Where memories are replaced, and what counts as the same place."""

    frames: int
    """F, frames of each video that are read."""
    swaps: int = 4
    """Frames of each video at which memories are replaced, evenly over its second half."""
    scored: int = 16
    """Frames scored after each of them."""
    last: int = 16
    """w, frames that the memory `last w` has read."""
    place: float = 0.25
    """Length of a cell of poses on x and y, in their unit; for videos without ages."""
    turn: float = 11.25
    """Degrees of a cell of poses."""

    def __post_init__(self) -> None:
        least = 2 * max(self.last, self.scored + 1)
        if self.frames < least:
            raise ValueError(
                f"{self.frames} frames of each video are read, and {self.last} before a swap and "
                f"{self.scored} after it need {least}; give longer videos, or less --last and "
                "--scored"
            )

    def points(self) -> list[int]:
        """The frames that are the first to be read with another memory."""
        end = self.frames - self.scored - 1
        return sorted(
            set(np.linspace(max(self.frames // 2, self.last), end, self.swaps).astype(int).tolist())
        )


class Sights(NamedTuple):
    """What the tokens of videos have to do with what was seen before."""

    ages: Tensor
    """(B, F, P) frames since what a token shows was last seen, or NEVER"""
    old: Tensor | None
    """(B, F, P) the token at the same place of the frame of the last sight, -1 for none; None where
    the ages do not say where it was"""
    first: Tensor
    """(B, F, P) bool: first sights; where poses are known, of cells that are seen again later"""
    again: Tensor
    """(B, F, P) bool: seen again after OLD frames or more"""


def read_sights(videos: Sequence[OpenedVideo], tokens: Tensor, settings: SwapSettings) -> Sights:
    """The sights of videos with files of ages, or else of poses x, y and angle beside them.

    Raises: ValueError for a video that has neither, and for ages of another number of tokens.
    """
    found = [sights_of(video, one, settings) for video, one in zip(videos, tokens, strict=True)]
    ages, old, first, again = zip(*found, strict=True)
    known = [one for one in old if one is not None]
    stacked = torch.stack(known) if len(known) == len(found) else None
    return Sights(torch.stack(ages), stacked, torch.stack(first), torch.stack(again))


def sights_of(video: OpenedVideo, tokens: Tensor, settings: SwapSettings) -> Sights:
    """The sights (F, P) of one video with tokens (F, P)."""
    source = video.source
    if find_condition(source.path, "ages"):
        ages = video.ages()
        if ages.shape != tokens.shape:
            raise ValueError(
                f"the ages of {source.name} are of {ages.shape[1]} tokens a frame, and the model "
                f"reads {tokens.shape[1]}; choose a model of the same grid"
            )
        return Sights(ages, None, ages == NEVER, ages >= OLD)
    file = find_condition(source.path, "poses")
    poses = read_condition(file, "poses", source.number) if file else np.zeros((0, 0))
    if poses.shape[1] != 3:
        raise ValueError(
            f"{source.name} has neither ages nor poses of x, y and angle; put "
            f"{source.path.stem}.ages.npy or .poses.npy beside it, as `prepare drawn` and "
            "`prepare maze` do"
        )
    return pose_sights(poses[: len(tokens)], tokens, settings)


def pose_sights(poses: np.ndarray, tokens: Tensor, settings: SwapSettings) -> Sights:
    """The sights of a walk: all tokens of a frame have the age of its cell."""
    ages, first = map(torch.from_numpy, pose_visits(poses, settings.place, settings.turn))
    frames = torch.arange(len(ages))
    old = tokens[(frames - ages).where(ages != NEVER, 0)]
    old = old.where((ages != NEVER)[:, None], -1)
    again = ages >= OLD
    seen_later = torch.zeros_like(again)
    seen_later[first[again]] = True
    flags = (ages, seen_later & (ages == NEVER), again)
    ages, first, again = (x[:, None].expand_as(tokens) for x in flags)
    return Sights(ages, old, first, again)


def videos_at_once(count: int) -> int:
    """Videos of a batch, so that no batch has a single one, whose memory has no other to swap with.

    Raises: ValueError for fewer than two videos.
    """
    if count < 2:
        raise ValueError(f"memories are swapped between videos, and there is {count}; give two")
    return next(n for n in range(min(count, MOST_AT_ONCE), 1, -1) if count % n != 1)


def read_tokens(batch: VideoBatch, codec: FrameCodec) -> tuple[Tensor, Conditions]:
    """Tokens (B, F, P) of a batch, and its conditions; the frames are held piece by piece."""
    tokens, known = [], []
    for piece in batch.pieces():
        tokens.append(encode(codec, piece.images))
        known.append(piece.conditions)
    return torch.cat(tokens, dim=1), Conditions.join(known)


@torch.inference_mode()
def swap_bits(
    model: FrameModel, tokens: Tensor, known: Conditions, settings: SwapSettings
) -> dict[str, Tensor]:
    """Bits (B, F, P) of tokens by the memory, NaN where it is not measured; own: of all frames.

    A model without a mixer has no memory to replace.
    """
    points = settings.points()
    begins = [point + 1 - settings.last for point in points]
    prefixes: dict[int, FramePrefix] = {}
    prefix, parts = None, []
    for begin, end in pairwise(sorted({0, *begins, *points, settings.frames})):
        found, prefix = score_frames(model, tokens[:, begin:end], prefix, known.frames(begin, end))
        prefixes[end] = prefix
        parts.append(found)
    bits = {"own": torch.cat(parts, dim=1)}
    if model.config.mixer is None:
        return bits
    fresh = model.init_state(len(tokens))
    memories: dict[str, tuple[int, Callable[[FrameModelState], FrameModelState]]] = {
        "other": (1, swapped),
        "fresh": (1, lambda state: with_memory(state, fresh)),
        f"last {settings.last}": (settings.last, lambda state: with_memory(state, fresh)),
    }
    for name, (read, change) in memories.items():
        bits[name] = torch.full_like(bits["own"], math.nan)
        for point in points:
            begin, end = point + 1 - read, point + 1 + settings.scored
            start = replace(prefixes[begin], state=change(prefixes[begin].state))
            part, _ = score_frames(model, tokens[:, begin:end], start, known.frames(begin, end))
            bits[name][:, point + 1 : end] = part[:, read:]
    return bits


def counted(ages: Tensor, settings: SwapSettings) -> Tensor:
    """The tokens (B, F, P) after a swap that are counted: see the top of this file."""
    found = torch.zeros_like(ages, dtype=torch.bool)
    frames = torch.arange(ages.shape[1], device=ages.device)[None, :, None]
    for point in settings.points():
        inside = (frames > point) & (frames <= point + settings.scored)
        found |= inside & ((ages <= 1) | (frames - ages < point))
    return found


def copy_bits(bits: Tensor, hit: Tensor) -> Tensor:
    """Bits (L, ...) where a share of SHARES is given to a copied token, which is right at `hit`."""
    shares = torch.from_numpy(SHARES).view(-1, *[1] * bits.ndim)
    return -torch.log2((1 - shares) * torch.exp2(-bits) + shares * hit)


Sums = dict[str, dict[str, list[float]]]
"""By group: the sums of bits, and the numbers of tokens, of each video."""


def sums(bits: Tensor, masks: dict[str, Tensor]) -> Sums:
    """The sums over the tokens of each mask (B, F, P); bits: (B, F, P)."""
    found = {}
    for name, mask in masks.items():
        total = torch.where(mask, bits, 0.0).sum((1, 2))
        found[name] = {"bits": total.tolist(), "tokens": mask.sum((1, 2)).tolist()}
    return found


def masks_of(sights: Sights, settings: SwapSettings) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Masks of the groups after the swaps, and of first and later sights of the whole video."""
    inside, ages = counted(sights.ages, settings), sights.ages
    groups = {n: inside & (ages >= low) & (ages < high) for n, (low, high) in GROUPS.items()}
    started = torch.arange(ages.shape[1])[:, None] > 0
    return groups, {"first": sights.first & started, "again": sights.again}


def measure_batch(
    model: FrameModel, codec: FrameCodec, batch: VideoBatch, settings: SwapSettings
) -> dict[str, Any]:
    """The sums of one batch: by memory, of copying by share, of first and later sights."""
    device = model.places.device
    tokens, known = read_tokens(batch, codec)
    bits = swap_bits(model, tokens, known.to(device), settings)
    bits, tokens = {name: x.cpu() for name, x in bits.items()}, tokens.cpu()
    sights = read_sights(batch.videos, tokens, settings)
    groups, whole = masks_of(sights, settings)
    last = torch.cat((torch.full_like(tokens[:, :1], -1), tokens[:, :-1]), dim=1)
    blank = torch.full_like(bits["own"], math.log2(model.config.vocab_size))
    copies = {"copying the last frame": copy_bits(blank, last == tokens)}
    if sights.old is not None:
        copies["copying the last visit"] = copy_bits(bits["own"], sights.old == tokens)
    return {
        "memories": {name: sums(x, groups) for name, x in bits.items()},
        "copies": {name: [sums(x, groups) for x in shares] for name, shares in copies.items()},
        "sights": sums(bits["own"], whole),
    }


def check_swappable(models: Mapping[str, VideoCheckpoint]) -> None:
    """Raise ValueError, with its path, for a model of tokens and for another frame tokenizer."""
    first = next(iter(models))
    for path, model in models.items():
        if not isinstance(model.network, FrameModel):
            raise ValueError(f"{path} reads a token at a time; name models of whole frames")
        if model.tokenizer != models[first].tokenizer:
            raise ValueError(
                f"{path} and {first} read tokens of different frame tokenizers, whose bits cannot "
                "be compared; measure them apart"
            )


def measure_memory(
    model: FrameModel,
    codec: FrameCodec,
    videos: Sequence[OpenedVideo],
    settings: SwapSettings,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """The sums over videos of equal length, a record of JSON's types.

    memories: Sums by the name of the memory; copying is with the share that is best for each group.
    sights: Sums of first and of later sights, with the model's own state.
    """
    alike = [replace(video, frames=settings.frames) for video in videos]
    parts = []
    for batch in batches(alike, model, videos_at_once(len(videos))):
        parts.append(measure_batch(model, codec, batch, settings))
        advance(len(batch))
    memories = {name: joined([p["memories"][name] for p in parts]) for name in parts[0]["memories"]}
    for name in parts[0]["copies"]:
        shares = [joined([p["copies"][name][n] for p in parts]) for n in range(len(SHARES))]
        memories[name] = {group: best([x[group] for x in shares]) for group in shares[0]}
    return {
        "window_only": model.config.mixer is None,
        "memories": memories,
        "sights": joined([p["sights"] for p in parts]),
    }


def joined(parts: list[Sums]) -> Sums:
    """The videos of all parts."""
    return {
        group: {key: [x for part in parts for x in part[group][key]] for key in ("bits", "tokens")}
        for group in parts[0]
    }


def best(shares: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    return min(shares, key=lambda one: sum(one["bits"]))
