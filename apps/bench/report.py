"""The files of a benchmark: rows as JSON, as a table in Markdown, and as a picture."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tttvideo.apps.report import LIBRARIES, markdown_table, run_conditions
from tttvideo.files import write_json, write_text

from .plot import draw_report, threads
from .records import Bar, Report, Row


def write_report(report: Report, out: Path) -> str:
    """Write NAME.json, NAME.md and, of measurements, NAME.png to `out`; return the table."""
    about = {**run_conditions(report.device), "clock": report.clock, **report.ceilings}
    text = report_page(report, about)
    write_text(out / f"{report.name}.md", text)
    found = asdict(report)
    found["bars"] = [{**asdict(bar), "verdict": bar.verdict} for bar in report.bars]
    parts = {name: found[name] for name in ("rows", "bars", "left_out", "broken", "notes")}
    record = {"title": report.title, **about, **parts}
    write_json(out / f"{report.name}.json", record)
    if report.rows or report.bars:
        draw_report(report, about, out / f"{report.name}.png")
    return text


def report_page(report: Report, about: dict[str, Any]) -> str:
    parts = [f"# {report.title}", summary(about)]
    if report.bars:
        parts.append(markdown_table(BAR_COLUMNS, [bar_cells(bar) for bar in report.bars]))
    for unit in dict.fromkeys(row.unit for row in report.rows):
        rows = [row for row in report.rows if row.unit == unit]
        columns = TIME_COLUMNS if unit == "s" else (*COLUMNS, unit, "gate")
        parts.append(markdown_table(columns, [row_cells(row, report) for row in rows]))
    parts += [f"Broken: {reason}" for reason in report.broken]
    parts += [f"Left out: {reason}" for reason in report.left_out]
    parts += [f"Note: {note}" for note in report.notes]
    return "\n\n".join(parts) + "\n"


def summary(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {about[name]}" for name in LIBRARIES if about[name])
    speed = f"copy {about['bytes_per_second'] / 1e9:,.1f} GB/s, "
    speed += f"matmul {about['flop_per_second'] / 1e9:,.0f} GFLOP/s"
    return (
        f"`{about['command']}`\n{about['device']}, {threads(about)}, {about['date']}, "
        f"commit {about['commit']}, {versions}. {about['clock']}, medians; ceilings: {speed}."
    )


COLUMNS = ("inner", "what", "shape", "who")
TIME_COLUMNS = (*COLUMNS, "ms", "20 to 80 %", "us per token", "of roofline", "error", "gate")
BAR_COLUMNS = ("what", "shape", "must", "aim", "reached", "20 to 80 %", "verdict")


def row_cells(row: Row, report: Report) -> tuple[str, ...]:
    first = (row.case.inner, row.what, row.case.shape, row.who)
    if row.unit != "s":
        number = f"{row.middle:.0e}" if row.unit == "error" else f"{row.middle:,.1f}"
        return (*first, number, row.wrong or ("" if row.error is None else "passed"))
    low, high = row.spread
    share = "" if row.roofline is None else f"{row.roofline:.1%}"
    error = "" if row.error is None else f"{row.error:.0e}"
    times = (f"{row.middle * 1e3:,.3f}", f"{low * 1e3:,.3f} to {high * 1e3:,.3f}")
    return (*first, *times, f"{row.per_token * 1e6:,.2f}", share, error, row.wrong or "passed")


def bar_cells(bar: Bar) -> tuple[str, ...]:
    def number(x: float) -> str:
        return f"{x:,.2f}".rstrip("0").rstrip(".") + (bar.unit if bar.unit == "x" else "")

    bound = "at most " if bar.most else ""
    spread = "" if bar.spread is None else " to ".join(map(number, bar.spread))
    reached = "" if bar.reached is None or bar.wrong else number(bar.reached)
    what = bar.what if bar.unit == "x" else f"{bar.what} ({bar.unit})"
    bounds = (f"{bound}{number(bar.must)}", number(bar.aim))
    return (what, bar.shape, *bounds, reached, spread, bar.verdict)
