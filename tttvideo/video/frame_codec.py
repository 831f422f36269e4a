"""The interface of what turns frames into tokens and back.

N frames, S pixels of height and width, R = S / 8 rows and columns of tokens, P = R^2 tokens.
"""

import hashlib
from typing import Any

from torch import Tensor, nn


PATCH = 8


class FrameCodec(nn.Module):
    """Frames (N, S, S, 3) uint8 RGB to tokens (N, P), raster order, and back.

    config: a dataclass, which describes the codec in checkpoints; it has size, grid and vocab_size.
    """

    config: Any

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (N, S, S, 3) uint8 to tokens (N, P)."""
        raise NotImplementedError

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (N, P) to frames (N, S, S, 3) uint8."""
        raise NotImplementedError

    def codes(self) -> Tensor:
        """Codes (V, channels) of all tokens: tokens of near codes look alike."""
        raise NotImplementedError

    @property
    def levels(self) -> tuple[int, ...]:
        """Values of each digit of a token; their product is the vocabulary."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """A short hash of config and weights: only the same codec can decode its tokens."""
        digest = hashlib.sha256(repr(self.config).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:16]
