"""The inner loss by layer and mini-batch, before and after the step.

The inner loss of a token is 1/2 ||f(k; W) - v||^2, arXiv 2407.04620, section 2. It is measured with
the initial weights W0, with the weights before a mini-batch's step, and with those after it and
after the forget gate.

N rows, T tokens, M mini-batch size, H heads, D head dim.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from tttvideo.backbone import Backbone
from tttvideo.kernels import State
from tttvideo.kernels.dual import norm_free
from tttvideo.kernels.inner import forward, layer_norm
from tttvideo.layers import full
from tttvideo.mixers.ttt import InnerCall, TTTLayer
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
    layers = ttt_layers(backbone)
    if not layers:
        raise ValueError(f"a model of {backbone.config.mixer} has no inner loop")
    M = layers[0].config.mini_batch_size
    if tokens.shape[1] < M:
        raise ValueError(f"{tokens.shape[1]} tokens are less than a mini-batch of {M}")
    found = [Losses() for _ in layers]

    def record(place: int, call: InnerCall) -> None:
        """One call reads one mini-batch, from its start to its step."""
        losses, own = found[place], (layers[place], call.k, call.v)
        assert isinstance(call.before, State) and isinstance(call.after, State)
        assert call.before.filled == call.after.filled == 0
        losses.initial.append(mean_loss(*own, layers[place].start()))
        losses.before.append(mean_loss(*own, call.before.weights))
        losses.after.append(mean_loss(*own, call.after.weights))

    watch_layers(layers, record)
    try:
        for _, hidden, _ in read(backbone, tokens[:, : tokens.shape[1] // M * M], chunk=M):
            advance(len(tokens) * hidden.shape[1])
    finally:
        watch_layers(layers, None)
    return found


def watch_layers(
    layers: Sequence[TTTLayer], watch: Callable[[int, InnerCall], None] | None
) -> None:
    """Call `watch` with the place of a layer after each call of its inner loop; None: no longer."""
    for place, layer in enumerate(layers):
        layer.watch = partial(watch, place) if watch else None


def ttt_layers(model: nn.Module) -> list[TTTLayer]:
    return [module for module in model.modules() if isinstance(module, TTTLayer)]


def mean_loss(layer: TTTLayer, k: Tensor, v: Tensor, weights: Sequence[Tensor]) -> float:
    """Mean over heads and tokens of the loss of k, v (N, M, H, D) with these fast weights."""
    k, v = (full(y).transpose(1, 2) for y in (k, v))  # (N, H, M, D)
    if not layer.config.norm:
        return (norm_free.loss(tuple(weights), k, v) / k[..., 0].numel()).item()
    norm = layer.by_block(full(layer.norm_weight)), layer.by_block(full(layer.norm_bias))
    weight, bias = (x[:, None] for x in norm)
    _, outputs = forward(k, weights)
    error = k + layer_norm(outputs[-1], (weight, bias)) - v
    return (0.5 * error.square().sum(-1)).mean().item()
