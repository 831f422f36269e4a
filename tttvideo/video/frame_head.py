"""The in-frame head: the tokens of a frame, one after the other, from one vector for each.

The frame's probability is the product of its tokens', so that bits per frame are exact and samples
are coherent. The tokens of a diagonal wave are made at once; each sees the tokens of all waves
before it, of which the four neighbours to its left and above are among the nearest.

N frames, P tokens per frame, C width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tttvideo.layers import SwiGLU, full
from tttvideo.mixers.mixer import Grid

from .attention import FrameAttention


NEAR = ((0, -1), (-1, -1), (-1, 0), (-1, 1))
"""(rows, columns) from a token to its neighbours that are made before it."""


@dataclass
class HeadConfig:
    depth: int = 1
    """Blocks of attention to the tokens made so far and an MLP; 0: the four neighbours alone."""
    order: Literal["diagonal", "raster", "parallel"] = "diagonal"
    """diagonal: all tokens with the same 2 row + column at once; raster: one after the other;
    parallel: all at once, each without the others, so that samples are not coherent."""
    copy_last: bool = False
    """Let the token at the same place of the last frame be a candidate of its own."""


class HeadBlock(nn.Module):
    """h + attention(norm(h)) to the tokens made so far; h + mlp(norm(h))."""

    def __init__(self, width: int, heads: int, mlp_width: int, norm_eps: float):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, norm_eps, bias=False)
        self.attention = FrameAttention(width, heads)
        self.mlp_norm = nn.LayerNorm(width, norm_eps, bias=False)
        self.mlp = SwiGLU(width, mlp_width)

    def forward(self, h: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
        h = h + self.attention(self.attention_norm(h), k, v, seen)
        return h + self.mlp(self.mlp_norm(h))


class FrameHead(nn.Module):
    """Logits of the tokens of a frame; `sample` makes them wave by wave."""

    neighbours: Tensor
    seen: Tensor

    def __init__(
        self,
        config: HeadConfig,
        vocab_size: int,
        width: int,
        heads: int,
        mlp_width: int,
        grid: Grid,
        norm_eps: float,
    ):
        super().__init__()
        self.config, self.none = config, vocab_size
        wave = waves(grid, config.order)
        self.steps = [(wave == n).nonzero()[:, 0] for n in range(int(wave.max()) + 1)]
        self.register_buffer("neighbours", neighbours(grid, wave), persistent=False)  # (P, 4)
        seen = torch.cat((wave[:, None] > wave, torch.ones(len(wave), 1, dtype=torch.bool)), dim=1)
        self.register_buffer("seen", seen, persistent=False)  # (P, P + 1)
        self.embedding = nn.Embedding(vocab_size + 1, width)
        self.near_embedding = nn.Embedding(vocab_size + 1, width // 4)
        self.near = nn.Linear(len(NEAR) * (width // 4), width, bias=False)
        self.made_norm = nn.LayerNorm(width, norm_eps, bias=False)
        sizes = width, heads, mlp_width, norm_eps
        self.blocks = cast(
            Sequence[HeadBlock], nn.ModuleList(HeadBlock(*sizes) for _ in range(config.depth))
        )
        self.norm = nn.LayerNorm(width, norm_eps, bias=False)
        self.out = nn.Linear(width, vocab_size, bias=False)
        self.copy = nn.Linear(width, 1) if config.copy_last else None

    def forward(self, vectors: Tensor, frames: Tensor, last: Tensor) -> Tensor:
        """Logits (N, P, V) of each token of `frames` (N, P) given the tokens made before it.

        vectors: (N, P, C) of the model. last: (N, P), the frames before these.
        """
        made = F.pad(frames, (0, 1), value=self.none)
        h = vectors + self.near_features(made, self.neighbours)
        keys = self.made_norm(self.embedding(made) + F.pad(vectors, (0, 0, 0, 1)))
        for block in self.blocks:
            h = block(h, *block.attention.look_at(keys), self.seen)
        return self.logits(h, last)

    def near_features(self, made: Tensor, near: Tensor) -> Tensor:
        """Features (N, p, C) of the neighbours (p, 4) in `made` (N, P + 1), whose last is none."""
        return self.near(self.near_embedding(made[:, near]).flatten(2))

    def logits(self, h: Tensor, last: Tensor) -> Tensor:
        """Logits (N, p, V), in float32 or float64, of tokens where `last` (N, p) stood."""
        h = self.norm(h)
        logits = full(self.out(h))
        if self.copy:
            logits = logits.scatter_add(-1, last[..., None], full(self.copy(h)))
        return logits

    def sample(self, vectors: Tensor, last: Tensor, choose: Any) -> Tensor:
        """Frames (N, P) of which each token is chosen by its logits; see `forward`."""
        N, P, _ = vectors.shape
        made = torch.full((N, P + 1), self.none, device=vectors.device)
        begin = self.made_norm(self.embedding(made[:, -1:]))
        caches = [[block.attention.look_at(begin)] for block in self.blocks]
        for places in self.steps:
            h = vectors[:, places] + self.near_features(made, self.neighbours[places])
            for block, cache in zip(self.blocks, caches, strict=True):
                k, v = (torch.cat(parts, dim=2) for parts in zip(*cache, strict=True))
                h = block(h, k, v)
            logits = self.logits(h, last[:, places])
            rows = [row for row in range(N) for _ in places]
            made[:, places] = choose(logits.flatten(0, 1), rows).view(N, -1)
            keys = self.made_norm(self.embedding(made[:, places]) + vectors[:, places])
            for block, cache in zip(self.blocks, caches, strict=True):
                cache.append(block.attention.look_at(keys))
        return made[:, :-1]


def waves(grid: Grid, order: str) -> Tensor:
    """The wave (P,) in which each token is made, from 0 on."""
    rows, columns = torch.cartesian_prod(*map(torch.arange, grid)).unbind(1)
    return {
        "diagonal": 2 * rows + columns,
        "raster": rows * grid[1] + columns,
        "parallel": 0 * rows,
    }[order]


def neighbours(grid: Grid, wave: Tensor) -> Tensor:
    """Places (P, 4) of the neighbours made before each token; P where there is none."""
    places = torch.cartesian_prod(*map(torch.arange, grid))
    near = places[:, None] + torch.tensor(NEAR)
    inside = ((near >= 0) & (near < torch.tensor(grid))).all(-1)
    index = (near[..., 0] * grid[1] + near[..., 1]).where(inside, 0)
    return index.where(inside & (wave[index] < wave[:, None]), len(places))
