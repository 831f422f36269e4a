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


BYTES = DownloadColumn(), TransferSpeedColumn()


class CountColumn(ProgressColumn):
    """The number of units in what was read, and of units per second."""

    def __init__(self, unit: str):
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> str:
        count = task.fields["count"]
        rate = count / task.elapsed if task.elapsed else 0
        return f"{count:,} {self.unit}, {rate:,.0f} {self.unit}/s"


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
    counts = BYTES if unit == "B" else (MofNCompleteColumn(), RateColumn(unit))
    with new_bar(*counts) as bar:
        number = bar.add_task(task, total=total)
        yield lambda done: bar.advance(number, done)


@contextmanager
def counting_progress(task: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
    """A bar of bytes with the rate of the units in them, whose total nobody knows.

    Yields a function that advances it by bytes and, unless the unit is "B" too, by units.
    """
    with new_bar(*(BYTES if unit == "B" else (CountColumn(unit),))) as bar:
        number = bar.add_task(task, total=total, count=0)

        def advance(size: int, units: int = 0) -> None:
            bar.update(number, advance=size, count=bar.tasks[number].fields["count"] + units)

        yield advance


def new_bar(*counts: ProgressColumn) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), *counts, TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
