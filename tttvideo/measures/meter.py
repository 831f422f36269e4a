"""The measurement of one checkpoint after a plan, and its cache."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from tttvideo.backbone import Backbone
from tttvideo.data.eval_targets import read_rows, shuffle_pieces
from tttvideo.data.tokens import Tokens
from tttvideo.files import read_json, write_json
from tttvideo.progress import Advance

from .costs import reset_costs, token_costs
from .document_stats import Tally, log_bins, tally
from .inner_loss import Losses, inner_losses
from .plan import Plan


@dataclass(frozen=True)
class Measured:
    """Sums over documents, (D, bins) by token index and (D, 1) of the fixed targets.

    by_index: "carried" and "reset"; fixed, shuffled: by context; fixed_reset: of the same targets.
    inner: by layer, for models that have an inner loop.
    not_finite: by measurement, the first token index with a cost that is not finite, counted from
        the start of the state or, in the reset control, of the document.
    """

    by_index: dict[str, Tally]
    fixed: dict[int, Tally]
    shuffled: dict[int, Tally]
    fixed_reset: Tally
    inner: list[Losses] | None
    not_finite: dict[str, int]

    @classmethod
    def unpack(cls, found: dict[str, Any]) -> Self:
        return cls(
            by_index={name: to_tally(x) for name, x in found["by_index"].items()},
            fixed={int(c): to_tally(x) for c, x in found["fixed"].items()},
            shuffled={int(c): to_tally(x) for c, x in found["shuffled"].items()},
            fixed_reset=to_tally(found["fixed_reset"]),
            inner=found["inner"] and [Losses(**layer) for layer in found["inner"]],
            not_finite=found["not_finite"],
        )


def to_tally(columns: dict[str, Any]) -> Tally:
    return Tally(**{name: np.array(column) for name, column in columns.items()})


def write_cache(path: Path, measured: Measured, about: dict[str, Any]) -> None:
    record = {"conditions": about, "measured": asdict(measured)}
    write_json(path, record, indent=None, default=np.ndarray.tolist)


def read_cache(path: Path) -> tuple[Measured, dict[str, Any]]:
    record = read_json(path, "delete it")
    return Measured.unpack(record["measured"]), record["conditions"]


@dataclass(frozen=True)
class Meter:
    """A model, and the data and the plan to measure it with."""

    backbone: Backbone
    data: Tokens
    byte_lengths: np.ndarray
    plan: Plan
    advance: Advance
    not_finite: dict[str, int] = field(default_factory=dict)

    def measure(self) -> Measured:
        plan = self.plan
        with_context = [c for c in plan.contexts if c and plan.shuffle]
        return Measured(
            by_index={
                "carried": self.by_index("carried", self.costs),
                "reset": self.by_index("reset", self.costs_of_pieces),
            },
            fixed={c: self.fixed(c) for c in plan.contexts},
            shuffled={c: self.fixed(c, other=True) for c in with_context},
            fixed_reset=self.fixed_reset(),
            inner=self.inner() if self.backbone.config.mixer == "ttt" else None,
            not_finite=self.not_finite,
        )

    def costs(self, tokens: np.ndarray, last: int | None = None) -> np.ndarray:
        rows = torch.from_numpy(tokens)
        return token_costs(self.backbone, rows, last, self.plan.batch, self.advance).numpy()

    def costs_of_pieces(self, tokens: np.ndarray) -> np.ndarray:
        rows, plan = torch.from_numpy(tokens), self.plan
        return reset_costs(self.backbone, rows, plan.reset, plan.batch, self.advance).numpy()

    def by_index(self, name: str, costs: Callable[[np.ndarray], np.ndarray]) -> Tally:
        length, begins = self.plan.length, self.plan.begins
        rows, edges = max(1, self.plan.batch // length), log_bins(length)
        parts = []
        for first in range(0, len(begins), rows):
            tokens = read_rows(self.data.tokens, begins[first : first + rows], length + 1)
            found = self.mask_not_finite(name, costs(tokens))
            parts.append(self.tally(found, tokens[:, 1:], edges))
        return Tally.stack(parts)

    def fixed(self, context: int, other: bool = False) -> Tally:
        """Measure the targets after `context` tokens, of other documents with `other`."""
        plan, read = self.plan, max(context, 1)
        name = f"shuffled context {context:,}" if other else f"context {context:,}"
        begins = plan.begins[plan.owners] + plan.places - read
        tokens = read_rows(self.data.tokens, begins, read + plan.span)
        if other:
            tokens[:, :read] = shuffle_pieces(tokens[:, :read], plan.owners, plan.reset)
        costs = self.mask_not_finite(name, self.costs(tokens, plan.span), first=read)
        return self.grouped(costs, tokens[:, read:])

    def fixed_reset(self) -> Tally:
        plan = self.plan
        since = (plan.places - 1) % plan.reset  # tokens of the target's piece before its first one
        begins = plan.begins[plan.owners] + plan.places - 1 - since
        tokens = read_rows(self.data.tokens, begins, plan.reset_pieces * plan.reset + 1)
        columns = since[:, None] + np.arange(plan.span)
        costs = self.mask_not_finite("reset of the targets", self.costs_of_pieces(tokens))
        costs = np.take_along_axis(costs, columns, axis=1)
        return self.grouped(costs, np.take_along_axis(tokens, columns + 1, axis=1))

    def inner(self) -> list[Losses]:
        begins = self.plan.begins[: self.plan.inner_documents]
        tokens = read_rows(self.data.tokens, begins, self.plan.inner_length)
        return inner_losses(self.backbone, torch.from_numpy(tokens), self.advance)

    def mask_not_finite(self, name: str, costs: np.ndarray, first: int = 1) -> np.ndarray:
        """The costs, nan where not finite; records the first such token index under `name`.

        first: token index of the first column.
        """
        good = np.isfinite(costs)
        columns = np.flatnonzero(~good.all(axis=0))
        if len(columns):
            index = first + int(columns[0])
            self.not_finite[name] = min(index, self.not_finite.get(name, index))
        return np.where(good, costs, np.nan)

    def tally(
        self, costs: np.ndarray, targets: np.ndarray, edges: np.ndarray | None = None
    ) -> Tally:
        return tally(costs, targets, self.byte_lengths, self.data.header.bos, edges)

    def grouped(self, costs: np.ndarray, targets: np.ndarray) -> Tally:
        return self.tally(costs, targets).grouped(self.plan.owners, len(self.plan.begins))
