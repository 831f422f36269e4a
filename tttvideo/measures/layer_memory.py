"""What a TTT layer remembers while it reads a window, in a few numbers, and its room.

B batch, T tokens, M mini-batch size, H heads (of every block), D head dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tttvideo.kernels import Packed
from tttvideo.kernels.state import states_of
from tttvideo.mixers.ttt import InnerCall, TTTLayer

from .inner_loss import mean_loss


LEAST = 1e-3
"""The least share of W0, and of the inner loss, that a living memory changes. Less is lost in the
rounding of bfloat16; a new layer of our configs changes more than 0.1 of either in a window."""


@dataclass(frozen=True)
class MemoryFigures:
    """One layer after a window; means over the batch.

    carry: the factor of the step that is carried to the next mini-batch.
    keep: mean g of the forget gate; 1 without one.
    written, start: Frobenius norms of W - W0 and of W0, over all fast weights.
    loss_start, loss_before, loss_after: the inner loss of the window's last mini-batch, with W0,
        with the weights before the window, which in a lane remember, and with those after it.
    """

    carry: float
    keep: float
    written: float
    start: float
    loss_start: float
    loss_before: float
    loss_after: float

    def dead(self) -> str | None:
        """Why this memory has no effect, or None."""
        if self.written < LEAST * self.start or self.written == 0:
            return f"|W - W0| is {self.written:.2g} and |W0| {self.start:.2g}"
        if self.loss_start - self.loss_after < LEAST * self.loss_start:
            return f"the inner loss goes from {self.loss_start:.4g} to {self.loss_after:.4g}"
        return None


@torch.no_grad()
def memory_figures(layer: TTTLayer, call: InnerCall) -> MemoryFigures:
    """The figures of one call of the inner loop; of packed sequences, those of the last one."""
    before, after = (states_of(state)[-1].weights for state in (call.before, call.after))
    length = call.before.lengths[-1] if isinstance(call.before, Packed) else call.k.shape[1]
    last = min(length, layer.config.mini_batch_size)
    own = layer, call.k[:, -last:], call.v[:, -last:]
    start = layer.start()
    written = [(w - w0).square().sum((1, 2, 3)) for w, w0 in zip(after, start, strict=True)]
    keep = None if call.log_keep is None else call.log_keep[call.log_keep < 0]  # by mini-batch
    return MemoryFigures(
        carry=layer.token_scale()[-1].item(),
        keep=keep.exp().mean().item() if keep is not None and keep.numel() else 1.0,
        written=torch.stack(written).sum(0).sqrt().mean().item(),
        start=torch.stack([w0.square().sum() for w0 in start]).sum().sqrt().item(),
        loss_start=mean_loss(*own, start),
        loss_before=mean_loss(*own, before),
        loss_after=mean_loss(*own, after),
    )


def capacity(layer: TTTLayer) -> int:
    """Associations of k with v that fit into the fast weights: D for each head of each block."""
    return layer.heads * layer.config.blocks * layer.head_dim
