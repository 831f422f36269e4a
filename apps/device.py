"""Where a command runs its model."""

import torch


def best_device() -> str:
    """A GPU when there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"
