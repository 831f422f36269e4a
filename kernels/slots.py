"""Slots: the state of B sequences that decode side by side, in buffers that never move.

A State grows by a row with every token, but a CUDA graph needs the same memory every time. So the
buffers hold the rows of a whole mini-batch, and the number of filled rows is on the device, one for
each sequence: sequences start and end at any place of their mini-batches.

B sequences, H heads, M mini-batch size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .state import State


@dataclass(frozen=True)
class Slots:
    """Buffers that decoding reads and updates in place; one State for each of B sequences.

    weights: W, b of each inner layer in turn, shaped as in State, float32: the exact fast weights.
    operands: W of each inner layer as tokens are multiplied with it, in the tokens' dtype; the same
        tensors as in `weights` if that is float32. Only a step, once in M tokens, writes both.
    rows: X, S of each inner layer in turn, (B, H, M, features), in the tokens' dtype: the kernels
        round S once and use the rounded values for both the output and the step. Rows that are not
        filled yet have arbitrary values.
    places: (B, H) int32, tokens of the open mini-batch seen so far. The heads of a sequence have
        equal counts; each has its own, so that no program waits for another.
    start: W0 of a forget gate, (H, in, out) and (H, 1, out), in the dtype of `weights`; may be the
        caller's own tensors. Empty without a gate.
    """

    weights: tuple[Tensor, ...]
    operands: tuple[Tensor, ...]
    rows: tuple[Tensor, ...]
    places: Tensor
    start: tuple[Tensor, ...] = ()

    @staticmethod
    @torch.no_grad()
    def of(
        state: State,
        mini_batch_size: int,
        dtype: torch.dtype,
        start: Sequence[Tensor] | None = None,
    ) -> Slots:
        """A copy of `state`, for tokens of `dtype`: float32, float16 or bfloat16.

        start: W0, if the tokens come with a forget gate.
        """
        B, H = state.weights[0].shape[:2]
        weights = tuple(torch.empty_like(w).contiguous() for w in state.weights)
        operands = tuple(W.to(dtype) for W in weights[::2])
        features = [n for W in weights[::2] for n in W.shape[-2:]]
        rows = tuple(weights[0].new_zeros(B, H, mini_batch_size, n, dtype=dtype) for n in features)
        places = weights[0].new_zeros(B, H, dtype=torch.int32)
        W0 = tuple(w.detach().to(weights[0].dtype).contiguous() for w in start or ())
        slots = Slots(weights, operands, rows, places, W0)
        slots.put(slice(None), state)
        return slots

    @property
    def filled(self) -> Tensor:
        """(B,) int32, a view: each sequence's place in its mini-batch."""
        return self.places[:, 0]

    @torch.no_grad()
    def put(self, i: int | slice, state: State) -> None:
        """Continue sequence i, or the sequences of a slice i, from `state`; 2 means slice(2, 3)."""
        i = self.lane(i) if isinstance(i, int) else i
        for buffer, w in zip(self.weights, state.weights, strict=True):
            buffer[i] = w
        for buffer, W in zip(self.operands, state.weights[::2], strict=True):
            buffer[i] = W
        for buffer, x in zip(self.rows, state.open, strict=True) if state.filled else ():
            buffer[i, :, : state.filled] = x
        self.places[i] = state.filled

    def lane(self, i: int) -> slice:
        i = range(len(self.places))[i]
        return slice(i, i + 1)

    def state(self, i: int) -> State:
        """A copy of sequence i, a batch of one. Waits for the device."""
        return self.copy(self.lane(i), int(self.filled[i]))

    def to_state(self) -> State:
        """A copy of all sequences. Waits for the device.

        Raises: ValueError when sequences are at different places.
        """
        filled = set(self.filled.tolist())
        if len(filled) > 1:
            raise ValueError(
                f"sequences are at places {sorted(filled)} of their mini-batches, and a State has "
                "one place; read them one by one with Slots.state(i)"
            )
        return self.copy(slice(None), filled.pop())

    def copy(self, i: slice, filled: int) -> State:
        weights = tuple(w[i].clone() for w in self.weights)
        rows = tuple(x[i, :, :filled].to(weights[0].dtype, copy=True) for x in self.rows)
        return State(weights, rows if filled else (), filled)
