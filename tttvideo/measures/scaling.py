"""How loss falls with size and with compute: power laws, and the best context for a budget.

A fit describes the runs it was made from; it does not extend to larger ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import OptimizeResult, least_squares
from scipy.stats import t as student_t


FEWEST = 4
"""Sizes from which on the irreducible loss E is fitted too."""
HUBER = 0.01
"""Log residual, about 1 % of the loss, above which the influence of a run grows no further."""


@dataclass(frozen=True)
class PowerLaw:
    """loss = E + A x^-alpha."""

    E: float
    """0 for fewer than 4 sizes, which are too few to fit it."""
    log_A: float
    """log A; A itself may exceed the largest float where x is operations."""
    alpha: float
    interval: tuple[float, float] | None
    """95 % interval of alpha, from the spread of the residuals; None without a spare point."""
    residuals: tuple[float, ...]
    """Log loss minus that of the fit, for each point: 0.01 is a loss 1 % above the fit."""
    note: str

    def __call__(self, x: ArrayLike) -> np.ndarray:
        return self.E + np.exp(self.log_A - self.alpha * np.log(np.asarray(x, float)))


def fit_power_law(sizes: ArrayLike, losses: ArrayLike) -> PowerLaw:
    """Fit log loss by least squares under Huber's loss, so that an outlier hardly moves the curve.

    Raises ValueError for fewer than two different sizes, and for numbers that are not above 0.
    """
    x, loss = np.asarray(sizes, float), np.asarray(losses, float)
    different = len(np.unique(x))
    if x.shape != loss.shape or different < 2 or not (np.r_[x, loss] > 0).all():
        raise ValueError(
            f"{len(x)} sizes, {different} of them different, and {len(loss)} losses; a fit takes a "
            "loss for each size, two different sizes or more, and all of them above 0"
        )
    centre = np.exp(np.log(x).mean())  # far from x = 1, A and alpha are nearly collinear
    curved = different >= FEWEST
    starts = loss.min() * np.linspace(0, 0.98, 9) if curved else [0.0]
    fits = [fit_from(x / centre, loss, E, curved) for E in starts]
    best = min(fits, key=lambda found: found.cost)
    E, log_A, alpha = best.x if curved else (0.0, *best.x)
    J = jacobian((E, log_A, alpha), x / centre)[:, 0 if E > 0 else 1 :]
    interval = alpha_interval(J, best.fun, alpha)
    note = "E + A x^-alpha" if curved else f"A x^-alpha: {different} sizes, too few for E"
    if curved and E == 0:
        note = "A x^-alpha: the best E is 0"
    if interval is None:
        note += "; as many parameters as points, so no interval"
    log_A = float(log_A + alpha * np.log(centre))
    return PowerLaw(float(E), log_A, float(alpha), interval, tuple((-best.fun).tolist()), note)


def fit_from(x: np.ndarray, loss: np.ndarray, E: float, curved: bool) -> OptimizeResult:
    """Fit from the line through log(loss - E); E, if it is fitted at all, stays from 0 to loss."""
    slope, height = np.polyfit(np.log(x), np.log(loss - E), 1)
    first = 0 if curved else 1  # of E, log A and alpha
    with np.errstate(over="ignore"):
        return least_squares(
            lambda p: residuals((0.0, *p)[-3:], x, loss),
            np.array([E, height, -slope])[first:],
            lambda p: jacobian((0.0, *p)[-3:], x)[:, first:],
            bounds=([0, -np.inf, -np.inf][first:], [0.999 * loss.min(), np.inf, np.inf][first:]),
            method="dogbox",  # its E reaches 0, where trf only comes near
            loss="huber",
            f_scale=HUBER,
            **dict.fromkeys(("ftol", "xtol", "gtol"), 1e-15),
        )


def residuals(p: Sequence[float], x: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Log of the fit minus log loss."""
    E, log_A, alpha = p
    return np.log(E + np.exp(log_A - alpha * np.log(x))) - np.log(loss)


def jacobian(p: Sequence[float], x: np.ndarray) -> np.ndarray:
    """Derivatives (points, 3) of `residuals` by E, log A and alpha."""
    E, log_A, alpha = p
    power = np.exp(log_A - alpha * np.log(x))
    share = power / (E + power)
    return np.stack([1 / (E + power), share, -share * np.log(x)], axis=1)


def alpha_interval(J: np.ndarray, r: np.ndarray, alpha: float) -> tuple[float, float] | None:
    """The 95 % interval of alpha, the last column of J, from the spread of the residuals."""
    spare = len(r) - J.shape[1]
    if spare < 1:
        return None
    error = math.sqrt((r @ r) / spare * np.linalg.pinv(J.T @ J)[-1, -1])
    margin = student_t.ppf(0.975, spare) * error
    return float(alpha - margin), float(alpha + margin)


@dataclass(frozen=True)
class Point:
    """A finished run."""

    context: int
    flops: float
    loss: float


@dataclass(frozen=True)
class Best:
    """The context of lowest loss at a budget, and the loss of each context that has one there."""

    flops: float
    context: int
    losses: dict[int, float]


def best_context(points: Sequence[Point], tolerance: float = 0.1) -> list[Best]:
    """The best context at every budget that two contexts or more have a loss for.

    Each run is a budget; runs within `tolerance` of it count as equal. Between two runs of one
    context the log of loss is a line over the log of operations; beyond them there is no loss.
    """
    budgets: list[float] = []
    for flops in sorted(p.flops for p in points):
        if not budgets or flops > budgets[-1] * (1 + tolerance):
            budgets.append(flops)
    found = []
    for budget in budgets:
        losses = {}
        for context in sorted({p.context for p in points}):
            runs = [p for p in points if p.context == context]
            if (loss := loss_at(runs, budget, tolerance)) is not None:
                losses[context] = loss
        if len(losses) > 1:
            found.append(Best(budget, min(losses, key=losses.__getitem__), losses))
    return found


def loss_at(points: Sequence[Point], budget: float, tolerance: float) -> float | None:
    """The lowest loss of one context at a budget, or between the runs on both sides of it."""
    near = [p.loss for p in points if abs(math.log(p.flops / budget)) <= math.log1p(tolerance)]
    if near:
        return min(near)
    below = [p for p in points if p.flops < budget]
    above = [p for p in points if p.flops > budget]
    if not below or not above:
        return None
    low = max(below, key=lambda p: (p.flops, -p.loss))
    high = min(above, key=lambda p: (p.flops, p.loss))
    share = math.log(budget / low.flops) / math.log(high.flops / low.flops)
    return math.exp((1 - share) * math.log(low.loss) + share * math.log(high.loss))
