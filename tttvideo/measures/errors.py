"""Errors of a result and its gradients against the same computation in float64."""

import torch
from torch import Tensor

from .speed import Run


LIMITS = {"float32": (1e-5, 1e-5), "float16": (5e-3, 1e-2), "bfloat16": (5e-3, 1e-2)}
"""Relative RMS error of y, and of a gradient, that our kernels may have."""
LOOSE = {"float32": (1e-3, 1e-3), "float16": (5e-2, 5e-2), "bfloat16": (5e-2, 5e-2)}
"""The same for kernels of other projects: do they compute the expected function?"""
BY_TOKEN = ("y", "dq", "dk", "dv", "deta")


def results(run: Run) -> dict[str, Tensor]:
    """y, and unless gradients are off the gradients of a fixed sum of its elements.

    A parameter that is a single number is left out: its gradient may be near 0 by chance.
    """
    y = run.call()
    if not torch.is_grad_enabled():
        return {"y": y}
    leaves = {name: x for name, x in run.leaves.items() if x.numel() > 1}
    generator = torch.Generator(y.device).manual_seed(1)
    dy = torch.randn(y.shape, generator=generator, device=y.device)
    grads = torch.autograd.grad(y, list(leaves.values()), dy.to(y.dtype))
    return {"y": y.detach(), **{f"d{n}": g for n, g in zip(leaves, grads, strict=True)}}


def errors(run: Run, truth: dict[str, Tensor]) -> dict[str, float]:
    """RMS of the difference over RMS of the truth, by result; NaN counts as infinite."""
    found = {}
    for name, x in results(run).items():
        error = (x.double() - truth[name]).norm() / truth[name].norm()
        found[name] = error.nan_to_num(torch.inf).item()
    return found


def verdict(
    found: dict[str, float], limits: tuple[float, float], rounded: dict[str, float] | None = None
) -> str:
    """The errors above their limits, in words; empty if there are none.

    rounded: errors of PyTorch's own form in the same precision. An error may exceed them by half,
    or be three times as large where few elements are sums over all tokens and vary by chance.
    """
    wrong = []
    for name, error in found.items():
        limit = limits[name != "y"]
        if rounded is not None:
            limit = min(limit, (1.5 if name in BY_TOKEN else 3) * rounded[name])
        if not error <= limit:
            wrong.append(f"{name} is off by {error:.1e}, more than {limit:.1e}")
    return "; ".join(wrong)
