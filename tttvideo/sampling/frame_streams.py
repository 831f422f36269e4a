"""Video as a stream of tokens, a frame at a time.

B batch, N frames, P tokens per frame, S pixels of height and width.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from tttvideo.backbone import Backbone
from tttvideo.video.frame_codec import FrameCodec

from .choose import Choose
from .decode import Prefix, decode, score


def decode_frames(
    backbone: Backbone, prefix: Prefix, count: int, choose: Choose
) -> Iterator[Tensor]:
    """Decode `count` frames after `prefix`: yields the tokens (B, P) of each."""
    assert backbone.config.grid
    rows, columns = backbone.config.grid
    tokens = decode(backbone, prefix, count * rows * columns, choose)
    for _ in range(count):
        yield torch.stack([next(tokens) for _ in range(rows * columns)], dim=1)


class FrameReader:
    """Reads the frames of a video with a token model and records the cost of each.

    prefix: the result of reading all frames so far; None before the first.
    bits: the bits that each frame so far costs, given all frames before it.
    """

    def __init__(self, backbone: Backbone, tokenizer: FrameCodec):
        self.backbone, self.tokenizer = backbone, tokenizer
        self.prefix: Prefix | None = None
        self.bits: list[float] = []

    def read(self, images: np.ndarray) -> Tensor:
        """Read frames (N, S, S, 3) uint8; returns their tokens (N, P)."""
        device = self.backbone.embedding.weight.device
        tokens = self.tokenizer.encode(torch.from_numpy(images).to(device))
        row = rearrange(tokens, "n p -> 1 (n p)")
        nats, _, self.prefix = score(self.backbone, row, self.prefix)
        bits = rearrange(nats[0] / math.log(2), "(n p) -> n p", n=len(images))
        self.bits += bits.sum(1).tolist()
        return tokens
