"""Progress bars with rates, on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


Advance = Callable[[int], None]  # its argument: the units done since the last call


class RateColumn(ProgressColumn):
    """The number of units per second."""

    def __init__(self, unit: str):
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> str:
        return f"{task.speed or 0:,.0f} {self.unit}/s"


@contextmanager
def progress(task: str, total: int | None, unit: str) -> Iterator[Advance]:
    """A bar with its rate per second; unit "B" counts bytes. Yields a function that advances it."""
    counts: tuple[ProgressColumn, ...] = (MofNCompleteColumn(), RateColumn(unit))
    if unit == "B":
        counts = (DownloadColumn(), TransferSpeedColumn())
    columns = (TextColumn("{task.description}"), BarColumn(), *counts, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        number = bar.add_task(task, total=total)
        yield lambda done: bar.advance(number, done)
