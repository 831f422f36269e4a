"""Runs of `tttvideo fit`, read from their folders and grouped for fits of loss by size."""

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tttvideo.weights.checkpoints import load_tokens_model

from .names import mixer_name
from .scaling import PowerLaw, fit_power_law


@dataclass
class Run:
    """A run of `tttvideo fit`, up to its last validation."""

    name: str
    mixer: str
    parameters: int
    context: int
    """Tokens of a training window."""
    tokens: int
    """Tokens of training up to the step of the loss, as are the operations."""
    flops: float
    loss: float
    """The last validation loss, nats per token."""
    curve: list[tuple[float, float]] = field(repr=False)
    """Operations and loss at each validation; only the last is at the end of the schedule."""
    tokenizer: str


@dataclass
class Group:
    """Runs of one mixer and one context that differ in size, and their fits; None for one size."""

    name: str
    runs: list[Run]
    by_parameters: PowerLaw | None
    by_flops: PowerLaw | None


def read_run(path: Path) -> Run:
    """Read an --out folder of `tttvideo fit`.

    For a run with `start_from`, tokens and operations include those before it; steps do not.
    Raises ValueError for a folder without a checkpoint, a training record, or finite losses.
    """
    model = load_tokens_model(path / "last.ckpt")
    trained = model.trained
    if not trained or not trained["steps"]:
        raise ValueError(f"{path}/last.ckpt records no training; train it with `tttvideo fit`")
    if "before" not in trained:
        raise ValueError(
            f"{path}/last.ckpt was written by another version: it does not record the tokens read "
            "before this run; train it again"
        )
    losses = {step: loss for step, loss in read_losses(path).items() if step <= trained["steps"]}
    if not losses:
        raise ValueError(f"{path} has no val_loss yet; let it train until its first validation")
    for step, loss in sorted(losses.items()):
        if not math.isfinite(loss):
            raise ValueError(
                f"{path} diverged: its val_loss at step {step} is {loss}; leave it out, or train "
                "it again with a lower learning rate"
            )
    curve = [(total_at("flops", trained, step), loss) for step, loss in sorted(losses.items())]
    flops, loss = curve[-1]
    return Run(
        name=str(path),
        mixer=mixer_name(model.backbone.config),
        parameters=sum(p.numel() for p in model.backbone.parameters()),
        context=trained["window"],
        tokens=round(total_at("tokens", trained, max(losses))),
        flops=flops,
        loss=loss,
        curve=curve,
        tokenizer=model.tokenizer,
    )


def total_at(unit: str, trained: dict[str, Any], step: int) -> float:
    """Tokens or flops up to a step; every step of a run takes the same number."""
    before = trained["before"][unit]
    return before + (trained[unit] - before) * step / trained["steps"]


def read_losses(path: Path) -> dict[int, float]:
    """Validation loss by steps done; of a run that was resumed, the later values win."""
    losses = {}
    files = path.glob("logs/version_*/metrics.csv")
    for file in sorted(files, key=lambda f: int(f.parent.name.removeprefix("version_"))):
        with open(file, newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                if row.get("val_loss"):
                    losses[int(row["step"]) + 1] = float(row["val_loss"])
    return losses


def group_runs(runs: list[Run]) -> list[Group]:
    """Group runs by mixer, and by context where one mixer has several."""
    keys = dict.fromkeys((run.mixer, run.context) for run in runs)
    mixers = [mixer for mixer, _ in keys]
    groups = []
    for mixer, context in keys:
        mine = [r for r in runs if (r.mixer, r.context) == (mixer, context)]
        name = f"{mixer}, context {context:,}" if mixers.count(mixer) > 1 else mixer
        fits = (fit_by([getattr(r, x) for r in mine], mine) for x in ("parameters", "flops"))
        groups.append(Group(name, mine, *fits))
    return groups


def fit_by(x: list[float], runs: list[Run]) -> PowerLaw | None:
    return fit_power_law(x, [run.loss for run in runs]) if len(set(x)) > 1 else None
