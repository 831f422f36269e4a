"""Where a command runs its model."""


def best_device() -> str:
    """A GPU when there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
