"""The page and the picture of `tttvideo evaluate rates`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tttvideo.apps.report import markdown_table, save_figure, style_panel
from tttvideo.measures.document_stats import Estimate, ratio
from tttvideo.measures.rates import RATES


Rule = Callable[[int], int]
"""Frames of the context at a rate."""
SIGHTS = {"again": "bits, seen again", "new": "bits, new"}
"""Kinds of targets in mazes."""
Models = dict[int, list[Any]]
"""The runs of a world by their rate, one for each seed."""
NOTE = (
    "Each model is trained at one rate, all of a world for the same operations. It reads a "
    "context that ends at an instant, and predicts at once the frame a horizon later, which is "
    "the same frame at every rate. Bits are of that whole frame; right is the share of the asked "
    "cells whose most probable colour is the true one, and in bounce the share of the frames in "
    "which the one cell that is not ground is found, in its colour. In mazes the target is seen "
    "again where the walk had its place (within an eighth of a cell) and heading in the last S "
    "seconds, a second or more before the instant, and new where it had not. S is that of equal "
    "seconds, and all frames of the walk count, so that the targets are the same at every rate. "
    "Means over the horizons; means of the seeds and their 95 % intervals, by Student's t."
)


def rules(settings: dict[str, Any]) -> dict[str, Rule]:
    """What is equal, and the frames of a context at each rate."""
    return {
        f"equal seconds: {settings['seconds']} s": lambda rate: rate * settings["seconds"],
        f"equal tokens and operations: {settings['frames']} frames": lambda _: settings["frames"],
    }


def by_world(record: dict[str, Any]) -> dict[str, Models]:
    """The runs of each world and rate; worlds in the order in which they were first run."""
    names = dict.fromkeys(run["world"] for run in record["runs"])
    return {
        name: {
            rate: runs
            for rate in RATES
            if (runs := [x for x in record["runs"] if (x["world"], x["rate"]) == (name, rate)])
        }
        for name in names
    }


def rows_of(run: Any, frames: int) -> list[Any]:
    """What was measured with a context, for each horizon."""
    return [x for x in run["measured"] if x["frames"] == frames]


def estimate(runs: list[Any], frames: int, name: str) -> Estimate:
    """A measure by the seeds; for each the mean of the horizons."""
    means = [np.mean([x[name] for x in rows_of(run, frames)]) for run in runs]
    return ratio(np.array(means), np.ones(len(means)))


def lucky(runs: list[Any], frames: int, colours: int) -> float:
    """What can be right where the event was seen, by guessing elsewhere."""
    seen = rows_of(runs[0], frames)[0]["seen"]
    return seen + (1 - seen) / colours


def rates_page(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    parts = [
        "# tttvideo evaluate rates",
        f"`{record['command']}`\n{record['date']}, {record['device']}, commit {record['commit']}.",
        NOTE,
    ]
    for world, models in by_world(record).items():
        parts += [f"## {world}", training(models)]
        for name, rule in rules(record["settings"]).items():
            parts += [f"{name[0].upper()}{name[1:]}.", table(world, models, record, rule)]
        parts.append(controls(models))
    return "\n\n".join(parts) + "\n"


def training(models: Models) -> str:
    runs = [run for some in models.values() for run in some]
    spent = [run["training_gflops"] for run in runs]
    steps = [run["steps"] for run in runs]
    return (
        f"{runs[0]['parameters']:,} parameters, {min(steps):,} to {max(steps):,} steps, "
        f"{min(spent):.1f} to {max(spent):.1f} x 10^9 operations of training."
    )


def table(world: str, models: Models, record: dict[str, Any], rule: Rule) -> str:
    columns = ["frames a second", "seeds", "frames", "seconds", "10^6 operations", "bits", "right"]
    columns += ["seen by luck, or guessed"] if world == "flash" else []
    columns += ["bits, last frame alone", *SIGHTS.values()] if world == "maze" else []
    rows = []
    for rate, runs in models.items():
        frames = rule(rate)
        bits, right = (estimate(runs, frames, name) for name in ("bits", "recall"))
        reading = rows_of(runs[0], frames)[0]["mflops"]
        seeds = " ".join(sorted(str(run["seed"]) for run in runs))
        row = [f"{rate}", seeds, f"{frames}", f"{frames / rate:.3g}", f"{reading:.1f}"]
        row += [with_margin(bits, 1, 3), with_margin(right, 100, 1) + " %"]
        if world == "flash":
            row.append(f"{100 * lucky(runs, frames, record['settings']['colours']):.1f} %")
        if world == "maze":
            row.append(with_margin(estimate(runs, 1, "bits"), 1, 3))
            row += [sighted(runs, frames, name) for name in SIGHTS]
        rows.append(row)
    return markdown_table(columns, rows)


def sighted(runs: list[Any], frames: int, name: str) -> str:
    """Bits of targets of one kind; "-" where a horizon has none of them."""
    if any(x[name] is None for run in runs for x in rows_of(run, frames)):
        return "-"
    return with_margin(estimate(runs, frames, name), 1, 3)


def controls(models: Models) -> str:
    """The same measure without a context, and of a copy of the last frame."""
    rate, runs = next(iter(models.items()))
    alone = estimate(runs, 1, "recall")
    copied = np.mean(list(runs[0]["copied"].values()))
    return (
        f"Controls: the model of {rate} frames a second that reads the last frame alone has "
        f"{with_margin(alone, 100, 1)} % right, a copy of the last frame {100 * copied:.1f} %."
    )


def with_margin(found: Estimate, factor: float, digits: int) -> str:
    text = f"{factor * found.value:.{digits}f}"
    return text if found.margin is None else f"{text} ± {factor * found.margin:.{digits}f}"


def draw_rates(record: dict[str, Any], path: Path) -> None:
    """Bits of the target, and the share that is right, by the rate."""
    worlds = by_world(record)
    figure = Figure(figsize=(max(5.0, 2.7 * len(worlds) + 0.6), 5.4), layout="constrained")
    panels = figure.subplots(2, len(worlds), sharex=True, squeeze=False)
    for column, (world, models) in zip(panels.T, worlds.items(), strict=True):
        column[0].set_title(world, fontsize=10)
        for panel, name, factor in zip(column, ("bits", "recall"), (1, 100), strict=True):
            for n, (label, rule) in enumerate(rules(record["settings"]).items()):
                draw_line(panel, models, rule, name, factor, color=f"C{n}", label=label)
            if world == "maze":
                alone: dict[str, Any] = {"color": "#777777", "label": "last frame alone"}
                draw_line(panel, models, lambda _: 1, name, factor, linestyle=":", **alone)
            style_panel(panel)
            panel.set_ylim(0, max(1.0, panel.get_ylim()[1]))  # a hundredth of a bit is nothing
        if world == "flash":
            colours = record["settings"]["colours"]
            frames = record["settings"]["frames"]
            best = [100 * lucky(runs, frames, colours) for runs in models.values()]
            name = "seen by luck, else guessed"
            column[1].plot(list(models), best, ":", color="#777777", label=name)
        column[1].set_xlabel("frames a second", fontsize=8)
        column[1].set_ylim(0, 105)
    panels[0, 0].set_ylabel("bits of the target frame", fontsize=8)
    panels[1, 0].set_ylabel("% right", fontsize=8)
    found = [panel.get_legend_handles_labels() for panel in panels[1]]
    lines = {
        name: line for handles, names in found for line, name in zip(handles, names, strict=True)
    }
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": min(3, 1 + len(worlds))}
    figure.legend([*lines.values()], [*lines], fontsize=8, frameon=False, **place)
    save_figure(figure, path)


def draw_line(
    panel: Axes, models: Models, rule: Rule, name: str, factor: float, **look: Any
) -> None:
    """A measure at every rate, with the intervals of the seeds as bars."""
    found = [estimate(runs, rule(rate), name) for rate, runs in models.items()]
    values = [factor * one.value for one in found]
    margins = [factor * (one.margin or 0.0) for one in found]
    panel.errorbar(list(models), values, margins, marker="o", markersize=4, capsize=2, **look)
    panel.set_xscale("log")
    panel.set_xticks(RATES, [str(rate) for rate in RATES])
    panel.minorticks_off()
