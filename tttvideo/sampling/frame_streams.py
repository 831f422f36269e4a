"""Video as a stream of tokens, a frame at a time.

B batch, P tokens per frame.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from tttvideo.backbone import Backbone

from .choose import Choose
from .decode import Prefix, decode


def decode_frames(
    backbone: Backbone, prefix: Prefix, count: int, choose: Choose
) -> Iterator[Tensor]:
    """Decode `count` frames after `prefix`: yields the tokens (B, P) of each."""
    assert backbone.config.grid
    rows, columns = backbone.config.grid
    tokens = decode(backbone, prefix, count * rows * columns, choose)
    for _ in range(count):
        yield torch.stack([next(tokens) for _ in range(rows * columns)], dim=1)
