"""Loss on fixed targets by length of context, where long contexts are measured on fewer targets.

Up to a context of `near` tokens all targets are measured. What longer contexts add is measured on a
part of the targets, as the difference to `near` on the same ones, since a context of 64 times the
training window costs more than its training step, and attention's cost grows with its square:

    loss(c) = loss(near) on all targets + (loss(c) - loss(near)) on that part of them
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tttvideo.data.tokens import Tokens, file_hash

from .document_stats import Estimate, Tally, ratio
from .meter import Meter
from .plan import Plan
from .subjects import byte_lengths, load_for


@dataclass(frozen=True)
class CurvePlan:
    """near: all targets, contexts up to the longest for all; far: some of them, all longer ones."""

    near: Plan
    far: Plan

    def key(self, checkpoint: Path, data: Tokens) -> str:
        """A hash of everything that the numbers depend on."""
        plans = self.near, self.far
        return " ".join(plan.key(file_hash(checkpoint), data.fingerprint) for plan in plans)


def curve_plan(plan: Plan, near: int, documents: int, whole: bool = False) -> CurvePlan:
    """Longer contexts than `near` on the first target of so many documents, evenly chosen.

    whole: read a context in one call, which is cheaper for attention; its memory grows with it.
    """
    _, first = np.unique(plan.owners, return_index=True)
    chosen = first[np.linspace(0, len(first) - 1, min(documents, len(first))).round().astype(int)]
    batch = max(plan.batch, plan.length) if whole else plan.batch
    far = replace(
        plan,
        owners=plan.owners[chosen],
        places=plan.places[chosen],
        contexts=tuple(c for c in plan.contexts if c >= near),
        batch=batch,
    )
    return CurvePlan(replace(plan, contexts=tuple(c for c in plan.contexts if c <= near)), far)


def measure_curve(path: Path, data: Tokens, curve: CurvePlan, device: str) -> dict[str, Any]:
    """Bits per byte by context, NaN where the loss is not finite, and those of the reset control.

    Raises ValueError for a checkpoint that does not read this data.
    """
    checkpoint = load_for(str(path), data)
    lengths, model = byte_lengths(checkpoint, data), checkpoint.backbone.to(device)
    all_targets = Meter(model, data, lengths, curve.near, advance=lambda _: None)
    some_targets = Meter(model, data, lengths, curve.far, advance=lambda _: None)
    bits = {context: value(all_targets.fixed(context)) for context in curve.near.contexts}
    near, *longer = curve.far.contexts
    if longer:
        before = some_targets.fixed(near)
        added = {context: some_targets.fixed(context).minus(before) for context in longer}
        bits |= {context: bits[near] + value(tally) for context, tally in added.items()}
    return {
        "bits_per_byte": bits,
        "reset": value(all_targets.fixed_reset()),
        "targets": len(curve.near.places),
        "far_targets": len(curve.far.places),
        "target_tokens": curve.near.span,
    }


def value(tally: Tally) -> float:
    return tally.bits_per_byte().value


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of one value for each seed, with its error over seeds; NaN if one of them is, or if
    there is none.
    """
    return ratio(np.array(values, float), np.ones(len(values)))
