"""Bits per frame against the length of the stream before it, on fixed targets.

The last frames of each video are scored several times, each time by a stream that begins another
number of frames before them: what differs is the context alone. Each video is read once, piece by
piece, and all streams of all models read each piece, so that memory is constant.

A model that uses no memory keeps its bits however long the stream is. So at each context the first
targets are also scored after another video's memory took the place of the own one.

B videos of a batch, F frames, P tokens per frame, S targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tttvideo.backbone import Backbone
from tttvideo.progress import Advance
from tttvideo.sampling.frame_streams import AnyPrefix, prefill_frames, read_frames
from tttvideo.states import tree_map
from tttvideo.video.conditions import Conditions
from tttvideo.video.frame_codec import FrameCodec
from tttvideo.video.frame_model import FrameModel

from .frame_conditions import BATCH
from .memory import swapped
from .video_data import OpenedVideo, VideoBatch, conditions_of, encode, joined


SWAPPED = 16  # targets, at most, that are scored with another video's memory
SHOWN = 128  # frames, at most, that are scored of each bin of frame indices


@dataclass(frozen=True)
class Targets:
    """The last `count` of `frames` frames, and the contexts, in frames, that they are scored after.

    A stream scores at most as many targets as its context has frames, so that none has more than
    twice the context; then another one begins.
    """

    frames: int
    count: int
    contexts: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], count: int, contexts: Sequence[int]) -> Targets:
        """For videos of these lengths, with the contexts that all of them have.

        Raises: ValueError if there are fewer than two such contexts.
        """
        shortest, ordered = min(lengths), sorted(set(contexts))
        fitting = tuple(c for c in ordered if c + count <= shortest)
        if len(fitting) < 2:
            need = ordered[min(1, len(ordered) - 1)] + count
            raise ValueError(
                f"two contexts and {count} targets need videos of {need:,} frames, and the "
                f"shortest has {shortest:,}; give longer videos, or smaller --contexts or --targets"
            )
        return cls(fitting[-1] + count, count, fitting)

    def starts(self, context: int) -> Iterator[tuple[int, int, int]]:
        """Of each stream with this context: where it begins, its first target, where it ends."""
        for first in range(self.frames - self.count, self.frames, min(self.count, context)):
            yield first - context, first, min(first + min(self.count, context), self.frames)


def index_bins(frames: int) -> list[tuple[int, int]]:
    """Frame indices, from and below, that are scored: the last of each doubling from 1 on."""
    edges = [1]
    while edges[-1] < frames:
        edges.append(min(2 * edges[-1], frames))
    return [(max(a, b - SHOWN), b) for a, b in zip(edges, edges[1:], strict=False)]


@dataclass
class Stream:
    """One model that reads B videos from frame `begin` on and scores those from `first` on."""

    begin: int
    first: int
    end: int
    context: int
    bins: list[tuple[int, int]] = field(default_factory=list)
    """frame indices of this stream that are scored too"""
    prefix: AnyPrefix | None = None
    other: AnyPrefix | None = None
    """the same with another video's memory, from the last frame of the context on"""
    bits: list[Tensor] = field(default_factory=list)
    """(B, n) of the targets"""
    others: list[Tensor] = field(default_factory=list)
    """(B, n) of the first targets, with another video's memory"""
    by_bin: dict[tuple[int, int], list[Tensor]] = field(default_factory=dict)

    @property
    def tested(self) -> int:
        """The frame before which the comparison of memories ends."""
        return min(self.first + SWAPPED, self.end)

    def cuts(self, begin: int, end: int) -> list[int]:
        """Where frames `begin` to `end` - 1 are cut, so that each part is treated in one way."""
        inside = [self.begin, self.first - 1, self.first, self.tested, self.end]
        inside += [self.begin + edge for pair in self.bins for edge in pair]
        return sorted({begin, end, *(place for place in inside if begin < place < end)})

    def read(
        self, model: FrameModel | Backbone, frames: Tensor, known: Conditions, at: int
    ) -> None:
        """Read a piece (B, F, P) of the videos whose first frame has the number `at`."""
        places = self.cuts(at, at + frames.shape[1])
        for begin, end in zip(places, places[1:], strict=False):
            if self.begin <= begin < self.end:
                a, b = begin - at, end - at
                self.read_part(model, frames[:, a:b], known.frames(a, b), begin)

    def read_part(
        self, model: FrameModel | Backbone, frames: Tensor, known: Conditions, at: int
    ) -> None:
        index = at - self.begin
        span = next(((a, b) for a, b in self.bins if a <= index < b), None)
        if at == self.first - 1 and self.prefix and len(frames) > 1:
            memory: Any = swapped(self.prefix.state)
            self.other = replace(self.prefix, state=memory)
        if self.other and at < self.tested:
            bits, self.other = read_frames(model, frames, self.other, known)
            if at >= self.first:
                self.others.append(bits.sum(-1).cpu())
        if at < self.first and span is None:
            self.prefix = prefill_frames(model, frames, self.prefix, known)
            return
        bits, self.prefix = read_frames(model, frames, self.prefix, known)
        if at >= self.first:
            self.bits.append(bits.sum(-1).cpu())
        if span:
            self.by_bin.setdefault(span, []).append(bits.sum(-1).cpu())


def new_streams(targets: Targets) -> list[Stream]:
    """Those of all contexts; the longest, which begins with the video, scores the bins too."""
    streams = [Stream(*start, c) for c in targets.contexts for start in targets.starts(c)]
    longest = max(targets.contexts)
    next(s for s in streams if s.context == longest).bins = index_bins(longest)
    return streams


Result = dict[str, dict[str, list[float]]]
"""Bits per frame of each video: "bits", "own" and "other" by context, "bins" by frame index."""


def gathered(streams: Sequence[Stream]) -> Result:
    found: Result = {"bits": {}, "own": {}, "other": {}, "bins": {}}
    for context in dict.fromkeys(stream.context for stream in streams):
        alike = [stream for stream in streams if stream.context == context]
        own = [torch.cat(stream.bits, 1) for stream in alike]
        found["bits"][str(context)] = torch.cat(own, 1).mean(1).tolist()
        if all(stream.others for stream in alike):
            other = [torch.cat(stream.others, 1) for stream in alike]
            first = [x[:, : y.shape[1]] for x, y in zip(own, other, strict=True)]
            found["own"][str(context)] = torch.cat(first, 1).mean(1).tolist()
            found["other"][str(context)] = torch.cat(other, 1).mean(1).tolist()
    for stream in streams:
        for (_, end), parts in stream.by_bin.items():
            found["bins"][str(end)] = torch.cat(parts, 1).mean(1).tolist()
    return found


@dataclass(frozen=True)
class Subject:
    """A model of either mode, its frame tokenizer, and the hash of that."""

    network: FrameModel | Backbone
    codec: FrameCodec
    tokenizer: str

    @property
    def device(self) -> torch.device:
        return self.network.embedding.weight.device


def measure_length(
    subjects: Mapping[str, Subject],
    videos: Sequence[OpenedVideo],
    targets: Targets,
    advance: Advance = lambda _: None,
) -> dict[str, Result]:
    """The bits of B videos, which are read side by side, by each of the models."""
    batch = VideoBatch([replace(video, frames=targets.frames) for video in videos])
    known = {name: conditions_of(batch.videos, one.network) for name, one in subjects.items()}
    streams = {name: new_streams(targets) for name in subjects}
    at_once = min([BATCH, *(one.batch for rows in known.values() for one in rows)])
    while batch.begin < batch.frames:
        piece = batch.read(min(at_once, batch.frames - batch.begin))
        tokens: dict[Any, Tensor] = {}
        for name, one in subjects.items():
            if one.tokenizer not in tokens:
                tokens[one.tokenizer] = encode(one.codec, piece.images)
            rows = [x.read(y.numpy()) for x, y in zip(known[name], piece.images, strict=True)]
            told = tree_map(lambda x, d=one.device: x.to(d), joined(rows))
            for stream in streams[name]:
                stream.read(one.network, tokens[one.tokenizer].to(one.device), told, piece.begin)
        advance(len(batch) * piece.images.shape[1])
    return {name: gathered(found) for name, found in streams.items()}
