"""The LSTM (Hochreiter and Schmidhuber, 1997): a memory of gated numbers that has no keys.

    i, f, g, o = W x_t + U h_{t-1} + b
    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g)        h_t = sigmoid(o) tanh(c_t)

It is torch.nn.LSTM and a projection to the width. In the frame model every place of a frame has a
state of its own, and all places share the weights, as in a convolutional LSTM of 1 x 1 cells: what
the other places show comes from the window and from attention inside the frame.

B batch, T tokens, F frames, P tokens per frame, C width, h hidden features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from tttvideo.states import state_dataclass

from .mixer import Address, Grid, Mixer, check_whole, frame_size


@dataclass
class LSTMConfig:
    hidden: int | None = None
    """Features of the state, twice; null: 5/9 of the width, which makes the mixer's weights as many
    as those of attention."""
    causal: bool | None = None
    """One state, which reads token after token; false: one for every place of a frame, which reads
    frame after frame; null: true in the backbone of tokens, false in the frame model."""


@state_dataclass
class LSTMState:
    """h and c: (B, hidden), or (B, P, hidden) with a state for every place of a frame."""

    h: Tensor
    c: Tensor


class LSTM(Mixer[LSTMState]):
    """The mixer "lstm"; it ignores `heads` and addresses, and computes in the dtype of its weights.

    The bias of the forget gate begins at 1, so that a new layer keeps what it reads.
    """

    def __init__(self, width: int, heads: int, config: LSTMConfig, grid: Grid | None = None):
        super().__init__()
        hidden = hidden_size(config, width)
        if hidden < 1:
            raise ValueError(f"lstm.hidden is {hidden}; it must be 1 or more")
        self.config, self.frame = config, frame_size("lstm", config.causal, grid)
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        _, _, bias, other_bias = self.lstm.parameters()
        bias.data[hidden : 2 * hidden], other_bias.data[hidden : 2 * hidden] = 1.0, 0.0
        self.o_proj = nn.Linear(hidden, width, bias=False)

    def init_state(self, batch: int) -> LSTMState:
        places = () if self.config.causal is not False else (self.frame,)
        zeros = self.o_proj.weight.new_zeros(batch, *places, self.lstm.hidden_size)
        return LSTMState(zeros, zeros)

    def forward(
        self, x: Tensor, state: LSTMState | None = None, address: Address | None = None
    ) -> tuple[Tensor, LSTMState]:
        check_whole(x.shape[1], self.frame)
        state = self.init_state(len(x)) if state is None else state
        rows = rearrange(x, "b (f p) c -> (b p) f c", p=self.frame)
        before = tuple(part.reshape(1, -1, part.shape[-1]) for part in (state.h, state.c))
        with torch.autocast(x.device.type, enabled=False):
            y, after = self.lstm(rows.to(self.o_proj.weight), before)
        y = rearrange(y, "(b p) f h -> b (f p) h", p=self.frame)
        h, c = (part.view_as(state.h) for part in after)
        return self.o_proj(y.to(x.dtype)), LSTMState(h, c)


def reference(lstm: nn.LSTM, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The formulas above, step by step: y (N, T, h) of x (N, T, C), and h, c (N, h) after it."""
    W, U, b, other_b = lstm.parameters()
    ys = []
    for step in x.unbind(1):
        gates = step @ W.T + h @ U.T + b + other_b
        i, f, g, o = gates.chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        ys.append(h)
    return torch.stack(ys, dim=1), h, c


def hidden_size(config: LSTMConfig, width: int) -> int:
    return 5 * width // 9 if config.hidden is None else config.hidden


def flops(config: LSTMConfig, width: int, heads: int, T: int) -> float:
    """Forward operations per token."""
    C, h = width, hidden_size(config, width)
    return 8 * h * (C + h) + 2 * h * C
