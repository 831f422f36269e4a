"""How close a frame is to the true frame.

S pixels of height and width.
"""

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)


HIGHEST = 100.0  # dB; the PSNR of two equal frames is infinite


def frame_quality(image: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """PSNR in dB, at most 100, and SSIM of one frame (S, S, 3) uint8 against the true frame."""
    frame, true = to_batch(image), to_batch(truth)
    if torch.equal(frame, true):
        return HIGHEST, 1.0
    psnr = peak_signal_noise_ratio(frame, true, data_range=1.0)
    ssim = structural_similarity_index_measure(frame, true, data_range=1.0)
    return min(psnr.item(), HIGHEST), ssim.item()


def to_batch(image: np.ndarray) -> Tensor:
    """(1, 3, S, S) float32 from 0 to 1."""
    return rearrange(torch.from_numpy(image.astype(np.float32) / 255), "h w c -> 1 c h w")
