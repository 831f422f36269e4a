"""What tokens of video cost: stated by a model, with its memory reset, and by a general compressor.

B batch, F frames, P tokens per frame, V vocabulary.
"""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from tttvideo.backbone import Backbone
from tttvideo.progress import Advance
from tttvideo.sampling.frame_coder import TokenBatch
from tttvideo.sampling.frame_streams import read_frames
from tttvideo.video.frame_model import FrameModel

from .memory import with_memory


Network = FrameModel | Backbone


@torch.inference_mode()
def stated_bits(network: Network, batches: Sequence[TokenBatch], advance: Advance) -> float:
    """Bits of all frames by the model's probabilities; the first frame of a video costs P log V."""
    device, total = network.embedding.weight.device, 0.0
    for batch in batches:
        frames, known = batch.frames.to(device), batch.conditions.to(device)
        total += read_frames(network, frames, None, known)[0].sum().item()
        advance(frames.shape[0] * frames.shape[1])
    return total


@torch.inference_mode()
def reset_bits(
    network: Network, batches: Sequence[TokenBatch], every: int, advance: Advance
) -> float:
    """As `stated_bits`, with a fresh memory after each `every` frames, at least 2.

    The window of the last frames stays, and the last frame is read again, so that what costs more
    is what only the memory held.
    """
    assert every >= 2
    device, total = network.embedding.weight.device, 0.0
    for batch in batches:
        frames, known = batch.frames.to(device), batch.conditions.to(device)
        B, F = frames.shape[:2]
        prefix: Any = None
        for begin in range(0, F, every):
            first, last = max(0, begin - 1), min(begin + every, F) - 1
            again = begin - first  # frames that are read again: none of the first part, else one
            if first < last:
                known_part = known.frames(first, last)
                bits, prefix = read_frames(network, frames[:, first:last], prefix, known_part)
                total += bits[:, again:].sum().item()
            end = last + 1
            bits, _ = read_frames(network, frames[:, last:end], prefix, known.frames(last, end))
            total += bits.sum().item()
            prefix = forgotten(network, prefix, B)
        advance(B * F)
    return total


def forgotten(network: Network, prefix: Any, batch: int) -> Any:
    """A prefix with a fresh memory; of a frame model the window of the last frames stays."""
    fresh = network.init_state(batch)
    if isinstance(network, Backbone):
        return replace(prefix, state=fresh)
    return replace(prefix, state=with_memory(prefix.state, fresh))


def xz_bits(batches: Sequence[TokenBatch], vocab_size: int) -> float:
    """Bits of all tokens by LZMA at its highest level, in the better of two orders: frame after
    frame, or all times of a place after each other.
    """
    kind = "u1" if vocab_size <= 1 << 8 else "<u2" if vocab_size <= 1 << 16 else "<u4"
    arrays = [batch.frames.cpu().numpy().astype(kind) for batch in batches]
    orders = arrays, [array.swapaxes(1, 2) for array in arrays]
    data = (b"".join(array.tobytes() for array in order) for order in orders)
    return 8.0 * min(len(lzma.compress(x, preset=9 | lzma.PRESET_EXTREME)) for x in data)
