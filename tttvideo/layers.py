"""Parts of a block that learn nothing while they read: rotary positions, short convolution, SwiGLU.

B batch, T tokens, H heads, D head dim, C width, K convolution taps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rotary_table(places: Tensor, pairs: int, theta: float) -> Tensor:
    """Angles (len(places), pairs): pair i turns by place * theta^(-i / pairs), in float32."""
    speeds = theta ** (-torch.arange(pairs, device=places.device, dtype=torch.float32) / pairs)
    return places[:, None].float() * speeds


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn adjacent pairs of features of x (B, T, H, D) by angles (T, D // 2)."""
    cos, sin = angles.cos(), angles.sin()
    cos, sin = (
        torch.stack(both, dim=-1).flatten(-2)[:, None].to(x.dtype)
        for both in ((cos, cos), (-sin, sin))
    )
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return x * cos + swapped * sin


class ShortConv(nn.Module):
    """Depthwise causal convolution over time, no activation; its state is the last K - 1 inputs."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, kernel))
        self.bias = nn.Parameter(torch.zeros(width))
        # what flax draws for this fan-in: a normal cut at two deviations, of standard deviation
        # kernel^-1/2 after the cut
        nn.init.trunc_normal_(self.weight, std=1.0)
        self.weight.data *= kernel**-0.5 / 0.87962566

    def init_state(self, batch: int) -> Tensor:
        width, kernel = self.weight.shape
        return self.weight.new_zeros(batch, kernel - 1, width)

    def forward(self, x: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, C) after the inputs `tail` (B, K - 1, C); an output like x, the new tail."""
        x = torch.cat((tail.to(x.dtype), x), dim=1)
        weight, bias = self.weight[:, None].to(x.dtype), self.bias.to(x.dtype)
        y = F.conv1d(x.mT, weight, bias, groups=x.shape[2])
        return y.mT, x[:, x.shape[1] - tail.shape[1] :]


class SwiGLU(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))
