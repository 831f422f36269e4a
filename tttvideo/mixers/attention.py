"""Softmax attention with rotary positions, over all tokens read so far or a sliding window.

This is the baseline "Transformer" of the paper (arXiv 2407.04620). Its state, the KV cache, grows
with the tokens read unless there is a window.

B batch, T tokens, H heads, D head dim, C width, L keys: cached ones and the T new ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from tttvideo.layers import rotary_table, rotate
from tttvideo.states import state_dataclass

from .mixer import Address, Grid, Mixer, check_whole, frame_size


QUERIES = 1024
"""Queries that share a mask of QUERIES x L, where one is needed."""


@dataclass
class AttentionConfig:
    rope_theta: float = 10000.0
    """Base of the rotary positions; 500000 is common for contexts from 4k tokens on."""
    window: int | None = None
    """Last tokens that a token sees, itself included; null: all."""
    causal: bool | None = None
    """A token sees the tokens up to it; false: its whole frame and all before it; null: true in the
    backbone of tokens, false in the frame model."""


@state_dataclass
class KVCache:
    """Rotated keys and values, (B, H, cached, D), and the number of tokens read."""

    k: Tensor
    v: Tensor
    seen: int


class Attention(Mixer[KVCache]):
    """The mixer "attention"."""

    def __init__(self, width: int, heads: int, config: AttentionConfig, grid: Grid | None = None):
        super().__init__()
        if width % heads or (width // heads) % 2:
            raise ValueError(f"width {width} over {heads} heads must give an even head dim")
        if config.window is not None and config.window < 1:
            raise ValueError(f"attention.window is {config.window}; it must be 1 or more, or null")
        self.frame = frame_size("attention", config.causal, grid)
        if config.window is not None and config.window < self.frame:
            raise ValueError(
                f"attention.window is {config.window}; it must hold a frame of {self.frame} tokens"
            )
        self.config, self.heads, self.head_dim = config, heads, width // heads
        self.qkv_proj = nn.Linear(width, 3 * width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def init_state(self, batch: int) -> KVCache:
        empty = self.o_proj.weight.new_zeros(batch, self.heads, 0, self.head_dim)
        return KVCache(empty, empty, 0)

    def forward(
        self, x: Tensor, state: KVCache | None = None, address: Address | None = None
    ) -> tuple[Tensor, KVCache]:
        check_whole(x.shape[1], self.frame)
        state = self.init_state(len(x)) if state is None else state
        q, k, v = (y.transpose(1, 2) for y in self.views(x, state.seen, address))
        if state.seen:
            k, v = torch.cat((state.k.to(k), k), dim=2), torch.cat((state.v.to(v), v), dim=2)
        y = attend(q, k, v, self.config.window, self.frame)
        y = self.o_proj(rearrange(y, "b h t d -> b t (h d)"))
        return y, KVCache(self.kept(k), self.kept(v), state.seen + x.shape[1])

    def views(self, x: Tensor, seen: int, address: Address | None) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v (B, T, H, D); q and k of the content are rotated."""
        if address:
            _, key, value = self.qkv_proj.weight.chunk(3)
            all_three = (address.query, key), (address.key, key), (x, value)
            q, k, v = (self.by_head(F.linear(y, weight)) for y, weight in all_three)
            return q, k, v
        q, k, v = (self.by_head(y) for y in self.qkv_proj(x).chunk(3, dim=-1))
        places = torch.arange(seen, seen + x.shape[1], device=x.device)
        angles = rotary_table(places, self.head_dim // 2, self.config.rope_theta)
        return rotate(q, angles), rotate(k, angles), v

    def by_head(self, x: Tensor) -> Tensor:
        return rearrange(x, "b t (h d) -> b t h d", h=self.heads)

    def kept(self, x: Tensor) -> Tensor:
        """The keys or values (B, H, L, D) that later tokens still see."""
        window = self.config.window
        first = 0 if window is None else max(0, x.shape[2] - window + self.frame)
        # a copy, since a view would keep all of x in memory
        return x[:, :, first:].clone(memory_format=torch.contiguous_format)


def attend(q: Tensor, k: Tensor, v: Tensor, window: int | None, frame: int = 1) -> Tensor:
    """Attention (B, H, T, D) of queries at the last T of the L places of k and v.

    A token sees the last `window` places up to the end of its frame; a frame of one is causal.
    """
    T, L = q.shape[2], k.shape[2]
    if frame in (1, T) and T in (frame, L) and (window is None or window >= L):
        return F.scaled_dot_product_attention(q, k, v, is_causal=frame < T)
    parts: list[Tensor] = []
    places = torch.arange(L, device=q.device)
    for part in q.split(min(window or QUERIES, QUERIES), dim=2):
        first = L - T + sum(p.shape[2] for p in parts)
        end = frame_end(first + part.shape[2] - 1, L, frame) + 1
        begin = 0 if window is None else max(0, frame_end(first, L, frame) + 1 - window)
        ends = frame_end(places[first : first + part.shape[2], None], L, frame)
        back = ends - places[begin:end]  # from the end of the query's frame to the key
        seen = (back >= 0) & (back < (window or L))
        keys, values = k[:, :, begin:end], v[:, :, begin:end]
        parts.append(F.scaled_dot_product_attention(part, keys, values, attn_mask=seen))
    return torch.cat(parts, dim=2)


def frame_end(place: Any, L: int, frame: int) -> Any:
    """The last place of the frame of a place, where the L places end with a frame."""
    return L - 1 - (L - 1 - place) // frame * frame


def flops(config: AttentionConfig, width: int, heads: int, T: int) -> float:
    """Forward operations per token, over the keys that a token sees."""
    window = min(config.window or T, T)
    keys = (window * (window + 1) / 2 + (T - window) * window) / T  # mean over the tokens
    return 8 * width * width + 4 * width * keys
