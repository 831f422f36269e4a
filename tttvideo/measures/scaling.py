"""How loss falls with size and with compute: power laws, and the best context for a budget.

What is fitted describes the runs that were made; it says nothing of larger ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


FEWEST = 4
"""Points from which on a loss that cannot be beaten, E, is fitted too."""
HUBER = 0.01
"""Log residual, about one per cent of the loss, above which a run pulls no harder."""
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t: 97.5 % lie below, for 1 to 10 degrees of freedom."""


@dataclass(frozen=True)
class PowerLaw:
    """loss = E + A x^-alpha."""

    E: float
    """0 where fewer than 4 points did not allow to fit it."""
    log_A: float
    """Of A, which itself may be beyond any number where x is operations."""
    alpha: float
    interval: tuple[float, float] | None
    """95 % of alpha, from the spread of the residuals; None when no point is left to tell it by."""
    residuals: tuple[float, ...]
    """Of each point, log loss minus the fit's: 0.01 is a loss of 1 % above."""
    note: str

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.E + np.exp(self.log_A - self.alpha * np.log(np.asarray(x, float)))


def fit_power_law(x: Sequence[float], loss: Sequence[float]) -> PowerLaw:
    """Least squares of log loss, by Huber's measure, so that one odd run does not bend the curve.

    Raises ValueError for fewer than two different x, and for x or loss that is not above 0.
    """
    x, loss = np.asarray(x, float), np.asarray(loss, float)
    if x.shape != loss.shape or len(np.unique(x)) < 2 or not (np.r_[x, loss] > 0).all():
        raise ValueError(
            f"{len(x)} sizes, {len(np.unique(x))} of them different, and {len(loss)} losses; a fit "
            "takes a loss for each size, two different sizes or more, and all of them above 0"
        )
    centre = np.exp(np.log(x).mean())  # far from 1, A and alpha could hardly be told apart
    curved = len(np.unique(x)) >= FEWEST
    starts = loss.min() * np.linspace(0, 0.98, 9) if curved else [0.0]
    fits = [refine(x / centre, loss, E, curved) for E in starts]
    E, log_A, alpha = min(fits, key=lambda p: huber(residuals(p, x / centre, loss)).sum())
    r = residuals((E, log_A, alpha), x / centre, loss)
    interval = alpha_interval(np.array([E, log_A, alpha]), x / centre, r)
    note = "E + A x^-alpha" if curved else f"A x^-alpha: {len(np.unique(x))} sizes, too few for E"
    if curved and E == 0:
        note = "A x^-alpha: the best E is 0"
    if interval is None:
        note += "; as many parameters as points, so no interval"
    log_A = float(log_A + alpha * np.log(centre))
    return PowerLaw(float(E), log_A, float(alpha), interval, tuple((-r).tolist()), note)


def residuals(p: Sequence[float], x: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """log of the fit minus log loss."""
    E, log_A, alpha = p
    return np.log(E + np.exp(log_A - alpha * np.log(x))) - np.log(loss)


def jacobian(p: Sequence[float], x: np.ndarray) -> np.ndarray:
    """Of `residuals` by E, log A and alpha, (points, 3)."""
    E, log_A, alpha = p
    power = np.exp(log_A - alpha * np.log(x))
    share = power / (E + power)
    return np.stack([1 / (E + power), share, -share * np.log(x)], axis=1)


def huber(r: np.ndarray) -> np.ndarray:
    size = np.abs(r)
    return np.where(size <= HUBER, r * r / 2, HUBER * (size - HUBER / 2))


def refine(x: np.ndarray, loss: np.ndarray, E: float, curved: bool) -> np.ndarray:
    """From the line through log(loss - E), by damped Gauss-Newton steps; E stays from 0 to loss."""
    slope, height = np.polyfit(np.log(x), np.log(loss - E), 1)
    p, damping = np.array([E, height, -slope]), 1e-3
    free = slice(0 if curved else 1, 3)
    for _ in range(200):
        r, J = residuals(p, x, loss), jacobian(p, x)[:, free]
        weight = np.minimum(1, HUBER / np.maximum(np.abs(r), HUBER))  # of the slope of huber(r)
        H = J.T @ (weight[:, None] * J)
        H += damping * np.diag(np.diag(H) + 1e-12)
        new = p.copy()
        new[free] -= np.linalg.lstsq(H, J.T @ (weight * r))[0]
        new[0] = np.clip(new[0], 0, 0.999 * loss.min())
        with np.errstate(over="ignore"):
            gain = huber(r).sum() - huber(residuals(new, x, loss)).sum()
        if gain > 0:
            p, damping = new, damping / 4
        if 0 <= gain < 1e-18 or damping > 1e12:
            break
        if not gain > 0:  # nan is no gain either
            damping *= 8
    return p


def alpha_interval(p: np.ndarray, x: np.ndarray, r: np.ndarray) -> tuple[float, float] | None:
    """alpha within what its standard error allows, at 95 %."""
    J = jacobian(p, x)[:, 0 if p[0] > 0 else 1 :]
    spare = len(r) - J.shape[1]
    if spare < 1:
        return None
    error = math.sqrt((r @ r) / spare * np.linalg.pinv(J.T @ J)[-1, -1])
    margin = t_975(spare) * error
    return float(p[2] - margin), float(p[2] + margin)


def t_975(freedom: int) -> float:
    if freedom <= len(T_975):
        return T_975[freedom - 1]
    z = 1.95996  # the normal distribution's, then two terms of Fisher's expansion
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


@dataclass(frozen=True)
class Point:
    """A finished run."""

    context: int
    flops: float
    loss: float


@dataclass(frozen=True)
class Best:
    """At a budget, the context of lowest loss, and the loss of each context that has one there."""

    flops: float
    context: int
    losses: dict[int, float]


def best_context(points: Sequence[Point], tolerance: float = 0.1) -> list[Best]:
    """The best context at every budget that two contexts or more have a loss for.

    A budget is what a run took, runs within `tolerance` of it counting as it. Between two runs of
    one context the log of loss is a line over the log of operations; beyond them it has no loss.
    """
    budgets = []
    for flops in sorted(p.flops for p in points):
        if not budgets or flops > budgets[-1] * (1 + tolerance):
            budgets.append(flops)
    found = []
    for budget in budgets:
        losses = {}
        for context in sorted({p.context for p in points}):
            mine = [p for p in points if p.context == context]
            loss = loss_at(mine, budget, tolerance)
            if loss is not None:
                losses[context] = loss
        if len(losses) > 1:
            found.append(Best(budget, min(losses, key=losses.get), losses))
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
