"""The inner loss by layer and mini-batch, before and after the step.

The inner loss of a token is 1/2 ||f(k; W) - v||^2, arXiv 2407.04620, section 2. It is measured with
the initial weights W0, with the weights before a mini-batch's step, and with those after it.

N rows, T tokens, M mini-batch size, H heads, D head dim.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tttvideo.backbone import Backbone
from tttvideo.kernels import Packed
from tttvideo.kernels.dual import norm_free
from tttvideo.kernels.inner import forward, layer_norm
from tttvideo.layers import full
from tttvideo.mixers.ttt import TTTLayer, TTTState
from tttvideo.progress import Advance
from tttvideo.reading import read


@dataclass
class Losses:
    """Losses of one layer: means over heads, tokens and rows, one for each mini-batch."""

    initial: list[float] = field(default_factory=list)
    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)


@torch.inference_mode()
def inner_losses(
    backbone: Backbone, tokens: Tensor, advance: Advance = lambda _: None
) -> list[Losses]:
    """The losses of each block, of the first T - T % M tokens of tokens (N, T).

    Raises ValueError for a model without TTT layers and for less than one mini-batch.
    """
    layers = [module for module in backbone.modules() if isinstance(module, TTTLayer)]
    if not layers:
        raise ValueError(f"a model of {backbone.config.mixer} has no inner loop")
    M = layers[0].config.mini_batch_size
    if tokens.shape[1] < M:
        raise ValueError(f"{tokens.shape[1]} tokens are less than a mini-batch of {M}")
    found = [Losses() for _ in layers]
    hooks = [
        layer.register_forward_hook(lambda *call, losses=losses: record(losses, *call))
        for layer, losses in zip(layers, found, strict=True)
    ]
    try:
        for _, hidden, _ in read(backbone, tokens[:, : tokens.shape[1] // M * M], chunk=M):
            advance(len(tokens) * hidden.shape[1])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def record(
    losses: Losses, layer: TTTLayer, arguments: tuple[Any, ...], result: tuple[Any, ...]
) -> None:
    """Forward hook: one call of a layer reads one mini-batch, from its start to its step."""
    x, before = arguments
    _, after = result
    assert before.inner.filled == after.inner.filled == 0
    losses.initial.append(inner_loss(layer, x, before, layer.init_state(len(x))))
    losses.before.append(inner_loss(layer, x, before, before))
    losses.after.append(inner_loss(layer, x, before, after))


def inner_loss(layer: TTTLayer, x: Tensor, before: TTTState, at: TTTState) -> float:
    """Mean loss over heads and tokens of x (N, M, C), read in state `before`, with weights `at`."""
    _, k, v, _ = layer.views(x, Packed((before,), (x.shape[1],)))
    k, v = (full(y).transpose(1, 2) for y in (k, v))  # (N, H, M, D)
    if not layer.config.norm:
        return (norm_free.loss(at.inner.weights, k, v) / k[..., 0].numel()).item()
    norm = full(layer.norm_weight)[:, None], full(layer.norm_bias)[:, None]
    _, outputs = forward(k, at.inner.weights)
    error = k + layer_norm(outputs[-1], norm) - v
    return (0.5 * error.square().sum(-1)).mean().item()
