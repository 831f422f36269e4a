"""Videos as streams of frames of tokens: read, scored and continued, in either mode.

B batch, F frames, P tokens per frame, S pixels of height and width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tttvideo.backbone import Backbone
from tttvideo.states import state_dataclass, tree_map
from tttvideo.video.conditions import NOTHING, Conditions
from tttvideo.video.frame_codec import FrameCodec
from tttvideo.video.frame_model import FrameModel, FrameModelState

from .choose import Choose
from .decode import Prefix, decode, prefill, score


FRAMES = 16  # frames of a video that one call reads


@state_dataclass
class FramePrefix:
    """The result of reading frames: vectors (B, P, C) of the next one, the last one, the state."""

    vectors: Tensor
    last: Tensor
    state: FrameModelState


AnyPrefix = Prefix | FramePrefix


@torch.inference_mode()
def score_frames(
    model: FrameModel,
    frames: Tensor,
    prefix: FramePrefix | None = None,
    conditions: Conditions = NOTHING,
    at_once: int = FRAMES,
) -> tuple[Tensor, FramePrefix]:
    """Read frames (B, F, P) after `prefix`; bits (B, F, P) of each token given all before it.

    conditions: of the frames that are read. Without a prefix a token of the first frame costs
    log V.
    """
    bits = []
    for begin in range(0, frames.shape[1], at_once):
        part = frames[:, begin : begin + at_once]
        known = conditions.frames(begin, begin + part.shape[1])
        vectors, state = model(part, prefix and prefix.state, known)
        if prefix is None:
            V = model.config.vocab_size
            bits.append(torch.full_like(part[:, :1], math.log2(V), dtype=torch.float64))
        else:
            bits.append(costs(model, prefix.vectors[:, None], part[:, :1], prefix.last[:, None]))
        bits.append(costs(model, vectors[:, :-1], part[:, 1:], part[:, :-1]))
        prefix = FramePrefix(vectors[:, -1], part[:, -1].clone(), state)
    assert prefix is not None  # there were frames
    return torch.cat(bits, dim=1), prefix


def costs(model: FrameModel, vectors: Tensor, frames: Tensor, last: Tensor) -> Tensor:
    """Bits (B, F, P) of the tokens of frames (B, F, P) by the vectors for them, float64."""
    if not frames.shape[1]:
        return torch.zeros(frames.shape, dtype=torch.float64, device=frames.device)
    parts = (x.flatten(0, 1) for x in (vectors, frames, last))
    logits = model.head(*parts).flatten(0, 1)
    nats = F.cross_entropy(logits, frames.flatten(), reduction="none")
    return nats.double().view(frames.shape) / math.log(2)


@torch.inference_mode()
def sample_frames(
    model: FrameModel,
    prefix: FramePrefix,
    count: int,
    choose: Choose,
    conditions: Conditions = NOTHING,
) -> Iterator[Tensor]:
    """Sample `count` frames (B, P) after `prefix`; the model runs once for each.

    conditions: of the sampled frames, of which the last is not read.
    """
    for n in range(count):
        frame = model.head.sample(prefix.vectors, prefix.last, choose)
        yield frame
        if n + 1 < count:
            known = conditions.frames(n, n + 1)
            vectors, state = model(frame[:, None], prefix.state, known)
            prefix = FramePrefix(vectors[:, -1], frame, state)


def fork(prefix: Any, count: int) -> Any:
    """The prefix of one video, or its state, as that of `count` equal ones."""
    return tree_map(lambda x: x.expand(count, *x.shape[1:]).clone(), prefix)


def read_frames(
    model: FrameModel | Backbone,
    frames: Tensor,
    prefix: Any,
    conditions: Conditions = NOTHING,
    at_once: int = FRAMES,
) -> tuple[Tensor, AnyPrefix]:
    """As `score_frames`, by a model of either mode; None is the prefix of no frames."""
    if isinstance(model, FrameModel):
        return score_frames(model, frames, prefix, conditions, at_once)
    nats, _, after = score(model, frames.flatten(1), prefix, at_once * frames.shape[2])
    return nats.view(frames.shape) / math.log(2), after


@torch.inference_mode()
def prefill_frames(
    model: FrameModel | Backbone, frames: Tensor, prefix: Any, conditions: Conditions = NOTHING
) -> AnyPrefix:
    """Read at most FRAMES frames (B, F, P) as `read_frames` does, and score none of them."""
    if not isinstance(model, FrameModel):
        return prefill(model, frames.flatten(1), FRAMES * frames.shape[2], prefix)
    vectors, state = model(frames, prefix and prefix.state, conditions)
    return FramePrefix(vectors[:, -1], frames[:, -1].clone(), state)


def decode_frames(
    model: FrameModel | Backbone,
    prefix: Any,
    count: int,
    choose: Choose,
    conditions: Conditions = NOTHING,
) -> Iterator[Tensor]:
    """Decode `count` frames (B, P) after `prefix`, by a model of either mode."""
    if isinstance(model, FrameModel):
        yield from sample_frames(model, prefix, count, choose, conditions)
        return
    assert model.config.grid
    P = math.prod(model.config.grid)
    tokens = decode(model, prefix, count * P, choose)
    for _ in range(count):
        yield torch.stack([next(tokens) for _ in range(P)], dim=1)


class FrameReader:
    """Reads the frames of a video with a model of either mode and records the cost of each.

    prefix: the result of reading all frames so far; None before the first.
    bits: the bits that each frame so far costs, given all frames before it.
    """

    def __init__(self, model: FrameModel | Backbone, tokenizer: FrameCodec):
        self.model, self.tokenizer = model, tokenizer
        self.prefix: Any = None
        self.bits: list[float] = []

    def read(self, images: np.ndarray, conditions: Conditions = NOTHING) -> Tensor:
        """Read frames (F, S, S, 3) uint8; returns their tokens (F, P)."""
        device = self.model.embedding.weight.device
        tokens = self.tokenizer.encode(torch.from_numpy(images).to(device))
        known = conditions.to(device)
        bits, self.prefix = read_frames(self.model, tokens[None], self.prefix, known)
        self.bits += bits[0].sum(1).tolist()
        return tokens
