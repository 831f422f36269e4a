"""The choice of a backend for a call, and its reason."""

import functools
import importlib.util
import logging
import os

import torch
from torch import Tensor


INSTALLED = importlib.util.find_spec("triton") is not None
BACKENDS = ("auto", "dual", "reference", "triton")
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
SIZES = {1: ((16, 32, 64, 96, 128), (16, 32, 64)), 2: ((32, 64), (16, 32, 64))}
"""Head dims and mini-batch sizes of the Triton kernels, by inner depth."""


def choose_backend(
    backend: str,
    tokens: tuple[Tensor, Tensor, Tensor],
    weights: tuple[Tensor, ...],
    M: int,
) -> tuple[str, str]:
    """The backend for q, k, v (B, T, H, D) and fast weights of these shapes, and the reason.

    Raises: ValueError for an unknown name, or with the reason why the named one cannot be used.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
    if backend in ("dual", "reference"):
        return backend, "asked for"
    interpreter = backend == "triton"
    obstacle = triton_obstacle(tokens, weights, M, interpreter)
    if backend == "triton":
        if obstacle:
            raise ValueError(f"backend 'triton' cannot serve: {obstacle}; use 'auto' or 'dual'")
        return backend, "asked for"
    return ("dual", f"not triton: {obstacle}") if obstacle else ("triton", "the fastest here")


def triton_obstacle(
    tokens: tuple[Tensor, Tensor, Tensor],
    weights: tuple[Tensor, ...],
    M: int,
    interpreter: bool,
) -> str | None:
    """Why the Triton kernels cannot be used, or None; on a CPU only the interpreter runs them."""
    q, depth = tokens[0], len(weights) // 2
    if not depth:
        return "the inner model without a norm has no kernels"
    heads, batches = SIZES[depth]
    if not INSTALLED:
        return "the package triton is not installed"
    if q.device.type != "cuda" and not (interpreter and os.environ.get("TRITON_INTERPRET") == "1"):
        return f"the tokens are on {q.device.type}, and the kernels run on CUDA GPUs"
    if torch.version.hip:
        return "the kernels are for NVIDIA GPUs"
    major = torch.cuda.get_device_properties(q.device).major if q.is_cuda else 9
    if major < 8:
        return "the GPU is older than compute capability 8.0"
    if major == 8 and q.dtype == torch.float32 and q.shape[-1] > 64:
        return "float32 with a head dim above 64 does not fit the registers of this GPU"
    if q.dtype not in DTYPES or len({x.dtype for x in tokens}) > 1:
        return "q, k and v must all be bfloat16, float16 or float32"
    if q.shape[-1] not in heads or M not in batches:
        return (
            f"head dim {q.shape[-1]} with mini-batches of {M}; the kernels are built for head dims "
            f"{', '.join(map(str, heads))} and mini-batches of {', '.join(map(str, batches))}"
        )
    if depth == 2 and weights[0].shape[-1] != 4 * q.shape[-1]:
        return f"{weights[0].shape[-1]} hidden features are not four times the head dim"
    return None


@functools.cache
def log_choice(name: str, reason: str) -> None:
    """Log a choice the first time that it is made for this reason."""
    logging.getLogger("tttvideo").info("backend %s (%s)", name, reason)
