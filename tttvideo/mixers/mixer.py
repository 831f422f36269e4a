"""The contract of every mixer: (x, state) -> (y, state), for any cut of a sequence into calls.

B batch, T tokens, C width.
"""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn

from tttvideo.states import tree_map


S = TypeVar("S")


class Mixer(nn.Module):
    """Mix tokens over time: forward(x (B, T, C), state) -> (y (B, T, C), state).

    `init_state(batch)` is the state before the first token.
    """

    def detach_carry(self, state: S) -> S:
        """The part of a state that a lane carries to the next window, without its history."""
        return tree_map(Tensor.detach, state)

    def attach_carry(self, carry: S) -> S:
        """The state to continue from, made from the result of `detach_carry`."""
        return carry
