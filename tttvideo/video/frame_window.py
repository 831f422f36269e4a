"""A short window over the last frames of a video, as an input of the models of video.

B batch, T tokens, C width, V vocabulary, P tokens per frame.
"""

import torch
from einops import rearrange
from torch import Tensor, nn


class FrameWindow(nn.Module):
    """Features of the tokens near the place of the next token, in the last frames of a video.

    For each token they show the 3 x 3 tokens around the place of the next one in each of the last
    `frames` frames, and the four neighbours of that place that the open frame has already, so that
    a model sees where things move. Older frames are left to the mixers.

    The state is the last `past` tokens (B, past), the number V where there is none yet.
    """

    lag: Tensor
    inside: Tensor

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
        lag = (frame * rows * columns - row * columns - column).clamp_min(1)  # 0 only outside
        self.none, self.past = vocab_size, int(lag.max()) - 1
        self.register_buffer("lag", lag, persistent=False)  # tokens back from the next one
        self.register_buffer("inside", inside, persistent=False)  # (P, neighbours)
        self.embedding = nn.Embedding(vocab_size + 1, width // 4)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.mix = nn.Linear(len(near) * (width // 4), width, bias=False)

    def init_state(self, batch: int) -> Tensor:
        return torch.full((batch, self.past), self.none, device=self.lag.device)

    def forward(self, tokens: Tensor, recent: Tensor, seen: int) -> tuple[Tensor, Tensor]:
        """Features (B, T, C) of tokens (B, T) that follow `seen` others, and the new state."""
        recent = torch.cat((recent, tokens), dim=1)
        upcoming = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        near = recent[:, self.past + upcoming[:, None] - self.lag]  # (B, T, neighbours)
        inside = self.inside[(seen + upcoming) % len(self.inside)]
        features = self.embedding(near.where(inside, self.none)).flatten(2)
        return self.mix(features), recent[:, tokens.shape[1] :].clone()


class PastFrames(nn.Module):
    """Features of the 3 x 3 tokens around each token in the last frames of a video, its own among
    them, for a model that reads whole frames.

    The state is the last `frames` - 1 frames (B, frames - 1, P), the number V where there is none.
    """

    def __init__(self, vocab_size: int, width: int, grid: tuple[int, int], frames: int):
        super().__init__()
        self.grid, self.none = grid, vocab_size
        self.embedding = nn.Embedding(vocab_size + 1, width // 4)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.mix = nn.Conv3d(width // 4, width, (frames, 3, 3), padding=(0, 1, 1), bias=False)

    def init_state(self, batch: int) -> Tensor:
        size = batch, self.mix.kernel_size[0] - 1, self.grid[0] * self.grid[1]
        return torch.full(size, self.none, device=self.embedding.weight.device)

    def forward(self, frames: Tensor, recent: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, F, P, C) of frames (B, F, P), and the new state."""
        recent = torch.cat((recent, frames), dim=1)
        x = rearrange(self.embedding(recent), "b f (r s) c -> b c f r s", r=self.grid[0])
        features = rearrange(self.mix(x), "b c f r s -> b f (r s) c")
        return features, recent[:, frames.shape[1] :].clone()
