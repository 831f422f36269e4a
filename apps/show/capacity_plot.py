"""The tables and the picture of `tttvideo evaluate capacity`."""

import math
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tttvideo.apps.report import markdown_table, save_figure, style_panel
from tttvideo.measures.capacity import OLD
from tttvideo.measures.capacity_curves import MemoryCurve, curves
from tttvideo.measures.document_stats import Estimate


STATES = "memory", "state, bytes", "H x D x blocks", "parameters", "steps", "half is recalled at"


def capacity_page(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    settings, found = record["settings"], curves(record["runs"])
    colours = settings["colours"]
    cells = [size**2 for size in settings["sizes"]]
    names = "cells", *(f"{n:,}" for n in cells)
    recalled = [[c.label, *(shares(c, n) for n in cells)] for c in found]
    costs = [
        [f"{c.label}, {state}", *(interval(c.estimate(state, "bits", n)) for n in cells)]
        for c in found
        for state in ("own", "other", "fresh")
    ]
    parts = [
        "# tttvideo evaluate capacity",
        f"`{record['command']}`\n{record['date']}, {record['device']}, commit {record['commit']}.",
        f"Worlds of {names[1]} to {names[-1]} cells of {colours} colours. Each is shown once, "
        f"{settings['view']} x {settings['view']} cells a frame, and then asked for in other views "
        f"of random places. Measured are cells last seen before that, {OLD} or more frames ago "
        "(or as many as a shorter sweep has), after the states were swapped. Each model was "
        f"trained for {settings['seconds']:g} s of CPU time on one thread, on small worlds first. "
        "Means over the seeds, ± half of the 95 % interval (Student's t).",
        markdown_table(STATES, [state_row(curve, colours) for curve in found]),
        "H heads, D features of a key: a linear memory tells H D keys apart. Half is recalled at "
        "the cells where the share of right cells falls to half way from guessing to all.",
        f"Share of right cells, own state, in % ({100 / colours:.3g} by guessing):",
        markdown_table(names, recalled),
        f"Bits per cell with the world's own state, another world's and a fresh one "
        f"({math.log2(colours):.3g} by guessing):",
        markdown_table(names, costs),
    ]
    return "\n\n".join(parts) + "\n"


def state_row(curve: MemoryCurve, colours: int) -> tuple[str, ...]:
    run, half = curve.runs[0], curve.half(colours)
    shape = run["shape"]
    sizes = f"{shape['heads']} x {shape['key']} x {shape['blocks']}" if shape else ""
    steps = sum(run["steps"] for run in curve.runs) / len(curve.runs)
    place = "fewer" if not half else "more" if math.isinf(half) else f"{half:,.0f}"
    held = run["recall"][str(curve.cells[-1])]["state_bytes"]
    return curve.label, f"{held:,}", sizes, f"{run['parameters']:,}", f"{steps:,.0f}", place


def shares(curve: MemoryCurve, cells: int) -> str:
    return interval(curve.estimate("own", "accuracy", cells), factor=100, digits=1)


def interval(e: Estimate, factor: float = 1, digits: int = 2) -> str:
    """A mean and half of its 95 % interval."""
    value = f"{factor * e.value:.{digits}f}"
    return value if e.margin is None else f"{value} ± {factor * e.margin:.{digits}f}"


def draw_capacity(record: dict[str, Any], path: Path) -> None:
    """The share of right cells, and bits per cell, by the number of cells."""
    settings = record["settings"]
    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for n, curve in enumerate(curves(record["runs"])):
        draw_curve(left, curve, "accuracy", f"C{n}")
        draw_curve(right, curve, "bits", f"C{n}")
        other = curve.means("other", "bits")
        right.plot(curve.cells, other, ":", color=f"C{n}", linewidth=1)
        if curve.associations:
            y = 1.03 + 0.02 * n
            left.plot(curve.associations, y, "v", color=f"C{n}", markersize=5)
    left.axhline(1 / settings["colours"], color="#999999", linewidth=0.8)
    right.axhline(math.log2(settings["colours"]), color="#999999", linewidth=0.8)
    left.set_ylabel("share of right cells, own state")
    right.set_ylabel("bits per cell")
    left.set_title("triangles: H D of each memory, 1 block; grey: guessing", fontsize=9)
    right.set_title("lines: own state; dots: another world's; grey: guessing", fontsize=9)
    for panel in (left, right):
        cells_axis(panel, [size**2 for size in settings["sizes"]])
    right.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    save_figure(figure, path)


def draw_curve(panel: Axes, curve: MemoryCurve, what: str, colour: str) -> None:
    """Means with the own state, and their 95 % intervals."""
    found = [curve.estimate("own", what, cells) for cells in curve.cells]
    (line,) = panel.plot(curve.cells, [e.value for e in found], "o-", color=colour, markersize=3)
    line.set_label(curve.label)
    low, high = ([e.value + sign * (e.margin or 0) for e in found] for sign in (-1, 1))
    panel.fill_between(curve.cells, low, high, color=colour, alpha=0.15, linewidth=0)


def cells_axis(panel: Axes, cells: list[int]) -> None:
    """A logarithmic axis of cells."""
    panel.set_xscale("log", base=2)
    panel.set_xticks(cells, [f"{n:,}" for n in cells])
    panel.minorticks_off()
    panel.set_xlabel("cells of the world", fontsize=8)
    style_panel(panel)
