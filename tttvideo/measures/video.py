"""How close predicted frames are to the true ones.

N frames, S pixels of height and width.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)


HIGHEST = 100.0  # dB; the PSNR of two equal frames is infinite
ERRORS = "psnr", "ssim", "mse", "mse_sum"
"""The measures of `frame_errors`."""
BETTER = {"psnr": max, "ssim": max, "mse": min, "mse_sum": min}
"""Which of two values of a measure is the better one."""


def psnr(frames: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, at most 100, of each frame, (N,).

    frames, truth: (N, S, S, 3) or (N, 3, S, S), floats from 0 to 1.
    """
    each_frame: Any = {"reduction": "none", "dim": (1, 2, 3)}
    return peak_signal_noise_ratio(frames, truth, 1.0, **each_frame).clamp_max(HIGHEST)


def frame_errors(frames: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """The ERRORS of each frame (N, S, S, 3) uint8 against the true one, (N,) each.

    psnr: dB, at most 100, of the frame, not pooled over frames. ssim: a Gaussian window of 11 x 11,
    mean of the three colours. mse: mean over the pixels, values from 0 to 1. mse_sum: what much of
    the field calls MSE, the sum over the pixels of a frame (OpenSTL); of three colours it is the
    mean, so that a grey video has the number of its one channel.
    """
    x, y = (images.movedim(3, 1).float() / 255 for images in (frames, truth))
    ssim = structural_similarity_index_measure(x, y, reduction="none", data_range=1.0)
    assert isinstance(ssim, Tensor)  # no images were asked for
    same = (frames == truth).flatten(1).all(1)
    mse = (x - y).square().mean((1, 2, 3))
    pixels = frames.shape[1] * frames.shape[2]
    return {
        "psnr": psnr(x, y),
        "ssim": ssim.view(-1).masked_fill(same, 1.0),
        "mse": mse,
        "mse_sum": mse * pixels,
    }


def frame_quality(image: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """PSNR in dB, at most 100, and SSIM of one frame (S, S, 3) uint8 against the true frame."""
    found = frame_errors(*(torch.from_numpy(one)[None] for one in (image, truth)))
    return found["psnr"].item(), found["ssim"].item()
