"""Layers that the mixers and blocks share: rotary positions, short convolution, SwiGLU.

B batch, T tokens, H heads, D head dim, C width, K convolution taps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rotary_table(places: Tensor, pairs: int, theta: float) -> Tensor:
    """Angles (len(places), pairs), float32: place * theta^(-i / pairs) for pair i."""
    speeds = theta ** (-torch.arange(pairs, device=places.device, dtype=torch.float32) / pairs)
    return places[..., None].float() * speeds


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate adjacent pairs of features of x (B, T, H, D) through angles (T, D // 2)."""
    cos, sin = angles.cos(), angles.sin()
    cos, sin = (
        torch.stack(both, dim=-1).flatten(-2)[..., None, :].to(x.dtype)
        for both in ((cos, cos), (-sin, sin))
    )
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return x * cos + swapped * sin


def init_by_fan_in(module: nn.Module, without: tuple[str, ...] = ()) -> None:
    """Draw the weights of linear layers anew, with a standard deviation of one over the root of
    their inputs: their outputs are as large as what they read.

    without: last names of layers that are left as they are.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and name.rpartition(".")[2] not in without:
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)


class ShortConv(nn.Module):
    """Depthwise causal convolution over time, no activation; its state is the last K - 1 inputs."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, kernel))
        self.bias = nn.Parameter(torch.zeros(width))
        # flax's initialiser for this fan-in: a normal distribution cut at two deviations, with a
        # standard deviation of kernel^-1/2 after the cut
        nn.init.trunc_normal_(self.weight, std=1.0)
        self.weight.data *= kernel**-0.5 / 0.87962566

    def init_state(self, batch: int) -> Tensor:
        width, kernel = self.weight.shape
        return self.weight.new_zeros(batch, kernel - 1, width)

    def forward(self, x: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve x (B, T, C), which follows the inputs `tail` (B, K - 1, C); the new tail."""
        T, kept, x = x.shape[1], tail.dtype, torch.cat((tail.to(x.dtype), x), dim=1)
        y = self.bias.to(x.dtype)
        for tap, weight in enumerate(self.weight.to(x.dtype).unbind(1)):
            y = torch.addcmul(y, x[:, tap : tap + T], weight)
        return y, x[:, T:].to(kept, copy=True)  # not a view that would keep all of x


class SwiGLU(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


def full(x: Tensor) -> Tensor:
    """x in float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()
