"""How close predicted frames are to the true ones.

N frames, S pixels of height and width.
"""

from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)


HIGHEST = 100.0  # dB; the PSNR of two equal frames is infinite


def psnr(frames: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, at most 100, of each frame, (N,).

    frames, truth: (N, S, S, 3) or (N, 3, S, S), floats from 0 to 1.
    """
    each_frame: Any = {"reduction": "none", "dim": (1, 2, 3)}
    return peak_signal_noise_ratio(frames, truth, 1.0, **each_frame).clamp_max(HIGHEST)


def frame_quality(image: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """PSNR in dB, at most 100, and SSIM of one frame (S, S, 3) uint8 against the true frame."""
    frame, true = to_batch(image), to_batch(truth)
    if torch.equal(frame, true):
        return HIGHEST, 1.0
    ssim = structural_similarity_index_measure(frame, true, data_range=1.0)
    assert isinstance(ssim, Tensor)  # no images were asked for
    return psnr(frame, true).item(), ssim.item()


def to_batch(image: np.ndarray) -> Tensor:
    """(1, 3, S, S) float32 from 0 to 1."""
    return rearrange(torch.from_numpy(image.astype(np.float32) / 255), "h w c -> 1 c h w")
