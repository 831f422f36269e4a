"""The contract of every mixer: (x, state) -> (y, state), for any cut of a sequence into calls.

B batch, T tokens, C width.
"""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor, nn

from tttvideo.kernels import Packed
from tttvideo.states import run_packed, tree_map


S = TypeVar("S")
Grid = tuple[int, int]
"""Rows and columns of tokens in a video frame."""


class Address(NamedTuple):
    """Where tokens are, for a memory that is addressed by place: features (B, T, C) of each.

    key: of the place that a token shows now; query: of the same place in the next frame.
    """

    key: Tensor
    query: Tensor


def frame_size(name: str, causal: bool | None, grid: Grid | None) -> int:
    """Tokens that are read as a whole: 1, or those of a frame where `causal` is false.

    Raises: ValueError, with the name of the config, if there are no frames.
    """
    if causal is not False:
        return 1
    if grid is None:
        raise ValueError(f"{name}.causal is false, which is for frames, and this model has none")
    return grid[0] * grid[1]


def check_whole(T: int, frame: int) -> None:
    """Raise ValueError for T tokens that are not whole frames."""
    if T % frame:
        raise ValueError(f"{T} tokens are no whole frames of {frame}, which are read as a whole")


class Mixer(nn.Module, Generic[S]):
    """Mix tokens over time: forward(x (B, T, C), state, address) -> (y (B, T, C), state).

    With an Address, k and q are one projection of its key and of its query, without rotary
    positions, and v is of x; without one, all are of x. A mixer without q and k ignores it.
    A mixer is built as mixer(width, heads, config, grid), where grid is None for text.
    """

    pre_conv = 0
    """Taps of a short convolution that the block puts before the mixer; 0: none."""

    @classmethod
    def resolve(cls, config: Any, grid: Grid | None = None) -> Any:
        """The config with a default in place of every null."""
        return config

    def init_state(self, batch: int) -> S:
        """The state before the first token of B sequences."""
        raise NotImplementedError

    def forward_packed(self, x: Tensor, packed: Packed[S]) -> tuple[Tensor, Packed[S]]:
        """Read sequences that are concatenated in a row x (1, T, C)."""
        return run_packed(self, x, packed)

    def start_decoding(self, state: Any) -> Any:
        """The state for `decode_`, which changes no memory of `state`."""
        return state

    def decode_(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """As `forward` for one token of each sequence, x (B, 1, C); may change `state` in place."""
        return self(x, state)

    def finish_decoding(self, state: Any) -> Any:
        """The state for `forward`, a copy, after the tokens that `decode_` read."""
        return state

    def detach_carry(self, state: S) -> S:
        """The part of a state that a lane carries to the next window, without its history."""
        return tree_map(Tensor.detach, state)

    def attach_carry(self, carry: S) -> S:
        """The state to continue from, made from the result of `detach_carry`."""
        return carry
