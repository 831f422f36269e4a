"""The inner model, an MLP of one or more layers under a LayerNorm, and its closed-form gradient.

f(x) = x + LayerNorm(F(x)), where F alternates affine maps and tanh-GELU. The loss of one token is
half the squared error between f(k) and v, so the target of the LayerNorm's output is v - k.
arXiv 2407.04620, section 2; the released code adds the biases.

All tensors are (..., L, features); norms broadcast against (..., L, D).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .state import pairs


EPS = 1e-6
Norm = tuple[Tensor, Tensor]


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def gelu_slope(x: Tensor) -> Tensor:
    """The derivative of tanh-GELU."""
    c = math.sqrt(2 / math.pi)
    t = torch.tanh(c * x * (1 + 0.044715 * x * x))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x)


def layer_norm(z: Tensor, norm: Norm) -> Tensor:
    """LayerNorm over the last axis with epsilon inside the root; norm = (weight, bias)."""
    return torch.addcmul(norm[1], F.layer_norm(z, z.shape[-1:], eps=EPS), norm[0])


def layer_norm_gradient(z: Tensor, target: Tensor, norm: Norm) -> Tensor:
    """The gradient with respect to z of 1/2 ||LayerNorm(z) - target||^2."""
    u, mean, rstd = torch.native_layer_norm(z, z.shape[-1:], None, None, EPS)
    p = norm[0] * (norm[0] * u + (norm[1] - target))
    return torch.ops.aten.native_layer_norm_backward(
        p, z, z.shape[-1:], mean, rstd, None, None, [True, False, False]
    )[0]


def affine(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """The output of the first affine map."""
    return x @ weights[0] + weights[1]


def forward(x: Tensor, weights: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The inputs and the outputs of each affine map; the last output is F(x)."""
    return forward_from(x, affine(x, weights), weights)


def forward_from(
    x: Tensor, z: Tensor, weights: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """As `forward`, given the first map's output z."""
    inputs, outputs = [x], [z]
    for W, b in pairs(weights)[1:]:
        inputs.append(gelu(outputs[-1]))
        outputs.append(inputs[-1] @ W + b)
    return inputs, outputs


def gradient(
    k: Tensor, z: Tensor, v: Tensor, weights: Sequence[Tensor], norm: Norm
) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs X and gradients G per inner layer: the loss has the gradient X^T G in W, G in b.

    z = affine(k, weights); the caller computes it together with other rows.
    """
    inputs, outputs = forward_from(k, z, weights)
    grads = [layer_norm_gradient(outputs[-1], v - k, norm)]
    for W, z in zip(weights[-2:0:-2], outputs[-2::-1], strict=True):
        grads.insert(0, (grads[0] @ W.mT) * gelu_slope(z))
    return inputs, grads


def forget(
    weights: Sequence[Tensor], start: Sequence[Tensor], log_keep: Tensor
) -> tuple[Tensor, ...]:
    """W - (1 - g) (W - W0), g = exp log_keep (...), for W (..., in, out); start: W0, broadcast.

    W itself, bit for bit, where log_keep is 0, and W0 up to rounding where it is -inf.
    """
    f = -torch.expm1(log_keep)[..., None, None]
    return tuple(W - f * (W - W0) for W, W0 in zip(weights, start, strict=True))


def loss(weights: Sequence[Tensor], k: Tensor, v: Tensor, norm: Norm) -> Tensor:
    """The inner loss, summed over everything: 1/2 ||k + LayerNorm(F(k)) - v||^2."""
    _, outputs = forward(k, weights)
    return 0.5 * (k + layer_norm(outputs[-1], norm) - v).square().sum()
