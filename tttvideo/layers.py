"""Parts that learn nothing while they read: rotary positions, short convolution, SwiGLU, window.

B batch, T tokens, H heads, D head dim, C width, K convolution taps, P tokens per frame.
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


class FrameWindow(nn.Module):
    """What a video's last frames show around the place whose token comes next.

    A token is told the 3 x 3 tokens around the next token's place in each of the last `frames`
    frames, and the four neighbours of that place which the open frame has already: where something
    moves to is seen from there. The memory of everything older is the mixers' matter.

    Its state is the tokens (B, past) last seen, the number V standing for none.
    """

    def __init__(self, vocab_size: int, width: int, grid: tuple[int, int], frames: int):
        super().__init__()
        rows, columns = grid
        around = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)]
        near = [(0, *place) for place in around[:4]]
        near += [(frame, *place) for frame in range(1, frames + 1) for place in around]
        frame, row, column = torch.tensor(near).T
        places = torch.arange(rows * columns)
        other_row = places[:, None] // columns + row
        other_column = places[:, None] % columns + column
        inside = (other_row >= 0) & (other_row < rows)
        inside &= (other_column >= 0) & (other_column < columns)
        lag = (frame * rows * columns - row * columns - column).clamp_min(1)  # 0 only if outside
        self.none, self.past = vocab_size, int(lag.max()) - 1
        self.register_buffer("lag", lag, persistent=False)  # back from the next token
        self.register_buffer("inside", inside, persistent=False)  # (P, neighbours)
        self.embedding = nn.Embedding(vocab_size + 1, width // 4)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.mix = nn.Linear(len(near) * (width // 4), width, bias=False)

    def init_state(self, batch: int) -> Tensor:
        return torch.full((batch, self.past), self.none, device=self.lag.device)

    def forward(self, tokens: Tensor, recent: Tensor, seen: int) -> tuple[Tensor, Tensor]:
        """tokens (B, T) after `seen` others; features (B, T, C) and the new state."""
        recent = torch.cat((recent, tokens), dim=1)
        upcoming = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        near = recent[:, self.past + upcoming[:, None] - self.lag]  # (B, T, neighbours)
        inside = self.inside[(seen + upcoming) % len(self.inside)]
        features = self.embedding(near.where(inside, self.none)).flatten(2)
        return self.mix(features), recent[:, tokens.shape[1] :].clone()
