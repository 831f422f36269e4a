"""The Frechet distance between two sets of features, as in FID and FVD (arXiv 1706.08500).

N samples, D features of each.
"""

import torch
from torch import Tensor


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """|mean difference|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)) of samples (N, D), N 2 or more.

    The trace of the root is the sum of the singular values of A B^T, where A and B are the centred
    samples over (N - 1)^(1/2): exact for any N, also below D, and nothing is rooted numerically.
    """
    means = [one.double().mean(0) for one in (x, y)]
    a, b = (scaled(one.double()) for one in (x, y))
    common = torch.linalg.svdvals(a @ b.mT).sum()
    spread = a.square().sum() + b.square().sum() - 2 * common
    return float((means[0] - means[1]).square().sum() + spread.clamp_min(0))


def scaled(x: Tensor) -> Tensor:
    """A matrix whose product with itself, A^T A, is the covariance of samples (N, D)."""
    centred = (x - x.mean(0)) / (len(x) - 1) ** 0.5
    return torch.linalg.qr(centred, mode="r").R if len(x) > x.shape[1] else centred
