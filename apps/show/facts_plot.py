"""The tables and the picture of `tttvideo evaluate facts`."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from tttvideo.apps.report import markdown_table, save_figure, short, style_panel
from tttvideo.data.recall.questions import TASKS
from tttvideo.measures.capacity_curves import MemoryCurve, curves
from tttvideo.measures.document_stats import ratio
from tttvideo.measures.facts import TIMES, mean_cells

from .capacity_plot import draw_curve, interval, shares
from .recall_maps import TITLES, exact_grid, map_table, row_name


COLUMNS = "mixer", "seeds", "state, bytes", "H x D", "parameters", "steps"
BAR = 8
"""Pairs whose recall is compared at every length."""
DIGITS = 10


def facts_page(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    settings, found = record["settings"], curves(record["runs"])
    pairs = [int(n) for n in record["runs"][0]["recall"]]
    lengths = [f"{BAR} pairs, {n} x" for n in TIMES]
    knee = []
    for c in found:
        other = (interval(c.estimate("other", "accuracy", n), 100, 1) for n in pairs)
        knee.append([c.label, *(shares(c, n) for n in pairs), half(c)])
        knee.append([f"{c.label}, other", *other, ""])
    parts = [
        "# tttvideo evaluate facts",
        f"`{record['command']}`\n{record['date']}, {record['device']}, commit {record['commit']}.",
        f"Texts state facts and ask for them at their end. Each model was trained for "
        f"{settings['seconds']:g} s of CPU time on one thread, on texts of up to "
        f"{settings['length']:,} bytes, short ones with few facts first; only the answers were "
        "learned. Means over the seeds, ± half of the 95 % interval (Student's t).",
        markdown_table(COLUMNS, [about_row(curve) for curve in found]),
        "H heads, D features of a key: a linear memory tells H D keys apart. The state is of the "
        "whole model after a text of the longest learned length, with what its convolutions keep.",
        f"Exact answers about {BAR} pairs in %, by the length of the text as a multiple of the "
        f"longest learned (21 by repeating any value):",
        markdown_table(("mixer", *lengths), [bar_row(curve) for curve in found]),
        "Right answers in %, by the number of pairs, in texts of these alone; other: after another "
        "text's pairs in place of its own. Half is recalled at the pairs where they fall to half "
        "way from guessing to all:",
        markdown_table(("pairs", *map(str, pairs), "half at"), knee),
    ]
    for curve in found:
        one = mean_record(record, curve)
        parts.append(f"## {curve.label}")
        for task, rows in TASKS.items():
            parts += [f"{TITLES[task].capitalize()}, exact, by {rows}:", map_table(one, task)]
    return "\n\n".join(parts) + "\n"


def about_row(curve: MemoryCurve) -> tuple[str, ...]:
    run, shape = curve.runs[0], curve.runs[0]["shape"]
    steps = np.mean([one["trained"]["steps"] for one in curve.runs])
    sizes = f"{shape['heads']} x {shape['key']}" if shape else ""
    seeds, held = len(curve.runs), run["state_bytes"]
    return curve.label, f"{seeds}", f"{held:,}", sizes, f"{run['parameters']:,}", f"{steps:,.0f}"


def bar_row(curve: MemoryCurve) -> list[str]:
    """Exact answers about BAR pairs at every length."""
    kept = (
        [cell["exact"] for cell in run["cells"] if (cell["task"], cell["row"]) == ("mqar", BAR)]
        for run in curve.runs
    )
    exact = (ratio(np.array(same), np.ones(len(same))) for same in zip(*kept, strict=True))
    return [curve.label, *(interval(x, 100, 1) for x in exact)]


def half(curve: MemoryCurve) -> str:
    place = curve.half(DIGITS)
    return "fewer" if not place else "more" if np.isinf(place) else f"{place:.0f}"


def mean_record(record: dict[str, Any], curve: MemoryCurve) -> dict[str, Any]:
    """A record for the maps of `evaluate recall`."""
    run = curve.runs[0]
    return {
        "name": curve.label,
        "settings": record["settings"],
        "trained": run["trained"],
        "cells": mean_cells(curve.runs),
    }


def draw_facts(record: dict[str, Any], path: Path) -> None:
    """A map of every mixer, and right answers by the number of pairs."""
    found = curves(record["runs"])
    figure = Figure(figsize=(2.3 + 1.9 * max(3, len(found)), 7), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    top, bottom = parts
    panels = top.subplots(1, len(found), sharey=True, squeeze=False)[0]
    images = [draw_map(p, mean_record(record, c)) for p, c in zip(panels, found, strict=True)]
    top.colorbar(images[0], ax=panels, label="exact answers", format="{x:.0%}")
    draw_knee(bottom.subplots(), found)
    save_figure(figure, path)


def draw_map(panel: Axes, record: dict[str, Any]) -> AxesImage:
    """The exact share, dark to bright, of all tasks by length; grey: no room."""
    names, grids = [], []
    for task, rows in TASKS.items():
        lengths, values, exact = exact_grid(record, task)
        names += [f"{'needle' if task == 'needle' else rows} {row_name(task, x)}" for x in values]
        grids.append(exact)
    panel.set_facecolor("#dddddd")
    exact = np.concatenate(grids)
    image = panel.imshow(exact, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for (row, column), share in np.ndenumerate(exact):
        if not np.isnan(share):
            look: dict[str, Any] = {"fontsize": 7, "color": "black" if share > 0.5 else "white"}
            panel.text(column, row, f"{100 * share:.0f}", ha="center", va="center", **look)
    for end in np.cumsum([len(grid) for grid in grids])[:-1]:
        panel.axhline(end - 0.5, color="white", linewidth=2)
    panel.set_xticks(range(len(lengths)), [short(n) for n in lengths], fontsize=7)
    panel.set_yticks(range(len(names)), names, fontsize=7)
    panel.set_xlabel(f"bytes; learned up to {record['trained']['window']:,}", fontsize=7)
    panel.set_title(record["name"], fontsize=9)
    return image


def draw_knee(panel: Axes, found: list[MemoryCurve]) -> None:
    """Right answers by pairs: lines with the own pairs, dots after another text's."""
    for n, curve in enumerate(found):
        draw_curve(panel, curve, "accuracy", f"C{n}")
        panel.plot(curve.cells, curve.means("other", "accuracy"), ":", color=f"C{n}", linewidth=1)
        if curve.associations:
            panel.plot(curve.associations, 1.03 + 0.03 * n, "v", color=f"C{n}", markersize=5)
    panel.set_ylim(0, 1.03 + 0.03 * len(found))
    panel.set_xscale("log", base=2)
    panel.set_xticks(found[0].cells, list(map(str, found[0].cells)))
    panel.minorticks_off()
    style_panel(panel)
    panel.set_xlabel("pairs in a text of these alone", fontsize=8)
    panel.set_ylabel("right answers", fontsize=8)
    panel.set_title(
        "solid: own pairs; dotted: after another text's pairs; triangles: H x D", fontsize=9
    )
    panel.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
