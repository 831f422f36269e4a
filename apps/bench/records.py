"""Records of a benchmark: a row per contender and case, bars, and all of them in a report."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles

from .cases import Case


@dataclass
class Row:
    """One contender on one case.

    unit: of `values`: "s" for seconds of a run, or for instance "q tensors".
    tokens: tokens of each sequence in one run.
    roofline: the least time that the measured ceilings allow, over the median.
    error: the worst relative RMS error found by the gate; wrong: why the gate fails, if it does.
    """

    case: Case
    what: str
    who: str
    values: list[float] = field(default_factory=list)
    unit: str = "s"
    tokens: int = 0
    roofline: float | None = None
    error: float | None = None
    wrong: str = ""

    @property
    def middle(self) -> float:
        return median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        return percentiles(self.values)

    @property
    def per_token(self) -> float:
        """Seconds per token of each sequence of the batch."""
        return self.middle / (self.tokens * self.case.batch)


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """The 20th and the 80th percentile."""
    if len(values) < 2:
        return values[0], values[0]
    cuts = quantiles(values, n=5, method="inclusive")
    return cuts[0], cuts[-1]


@dataclass
class Bar:
    """A required figure: at least `must`, or with `most` at most."""

    what: str
    shape: str
    must: float
    aim: float
    reached: float | None = None
    spread: tuple[float, float] | None = None
    unit: str = "x"
    most: bool = False
    wrong: str = ""

    def reach(self, values: Sequence[float], *rows: Row) -> None:
        """Set the reached value; void if the gate of a row failed."""
        self.reached = median(values)
        self.spread = percentiles(values) if len(values) > 1 else None
        self.wrong = self.wrong or "; ".join(f"{row.who}: {row.wrong}" for row in rows if row.wrong)

    @property
    def verdict(self) -> str:
        if self.reached is None:
            return f"not measured: {self.wrong or 'see the broken and the left-out parts'}"
        if self.wrong:
            return f"void: {self.wrong}"
        sign = -1 if self.most else 1
        if sign * self.reached >= sign * self.aim:
            return "aim reached"
        return "reached" if sign * self.reached >= sign * self.must else "MISSED"


@dataclass
class Report:
    """All that a command measured."""

    name: str
    title: str
    device: str
    clock: str
    ceilings: dict[str, float]
    rows: list[Row] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def broke(self, who: str, problem: Exception) -> None:
        lines = str(problem).strip().splitlines()
        self.broken.append(f"{who}: {type(problem).__name__}{': ' + lines[0] if lines else ''}")

    def leave_out(self, reason: str) -> None:
        if reason not in self.left_out:
            self.left_out.append(reason)

    def failures(self) -> list[str]:
        wrong = [f"{r.who}: {r.what} at {r.case.shape}: {r.wrong}" for r in self.rows if r.wrong]
        return wrong + self.broken
