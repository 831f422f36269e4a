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
NOTE = (
    "One model of a world is trained at all rates, each for the same operations. It reads a context "
    "that ends at an instant, and foretells at once the frame a horizon later, which is the same "
    "frame at every rate. Bits are of that whole frame; right is the share of the asked cells, those "
    "which the last frame alone does not tell, whose most probable colour is the true one. Means "
    "over the horizons; means of the seeds and their 95 % intervals, by Student's t."
)


def rules(settings: dict[str, Any]) -> dict[str, Rule]:
    """What is equal, and the frames of a context at each rate."""
    return {
        f"equal seconds: {settings['seconds']} s": lambda rate: rate * settings["seconds"],
        f"equal tokens and operations: {settings['frames']} frames": lambda _: settings["frames"],
    }


def by_world(record: dict[str, Any]) -> dict[str, list[Any]]:
    """The runs of each world, in the order in which they were first run."""
    found: dict[str, list[Any]] = {}
    for run in record["runs"]:
        found.setdefault(run["world"], []).append(run)
    return found


def rows_of(run: Any, rate: int, frames: int) -> list[Any]:
    """What was measured at a rate with a context, for each horizon."""
    return [x for x in run["measured"] if (x["rate"], x["frames"]) == (rate, frames)]


def estimate(runs: list[Any], rate: int, frames: int, name: str) -> Estimate:
    """A measure by the seeds; for each the mean of the horizons."""
    means = [np.mean([x[name] for x in rows_of(run, rate, frames)]) for run in runs]
    return ratio(np.array(means), np.ones(len(means)))


def lucky(runs: list[Any], rate: int, frames: int, colours: int) -> float:
    """What can be right where the event was seen, by guessing elsewhere."""
    seen = rows_of(runs[0], rate, frames)[0]["seen"]
    return seen + (1 - seen) / colours


def rates_page(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    parts = [
        "# tttvideo evaluate rates",
        f"`{record['command']}`\n{record['date']}, {record['device']}, commit {record['commit']}.",
        NOTE,
    ]
    for world, runs in by_world(record).items():
        parts += [f"## {world}", training(runs)]
        for name, rule in rules(record["settings"]).items():
            parts += [f"{name[0].upper()}{name[1:]}.", table(world, runs, record, rule)]
        parts.append(controls(runs))
    return "\n\n".join(parts) + "\n"


def training(runs: list[Any]) -> str:
    first = runs[0]
    most, least = (pick(first["training_gflops"].values()) for pick in (max, min))
    seeds = ", ".join(str(run["seed"]) for run in runs)
    return (
        f"{first['parameters']:,} parameters, {first['steps']:,} steps, {least:.1f} to {most:.1f} "
        f"x 10^9 operations of training at each rate, seeds {seeds}."
    )


def table(world: str, runs: list[Any], record: dict[str, Any], rule: Rule) -> str:
    columns = ["frames a second", "frames", "seconds", "10^6 operations", "bits", "right"]
    columns += ["seen by luck, or guessed"] if world == "flash" else []
    rows = []
    for rate in RATES:
        frames = rule(rate)
        bits, right = (estimate(runs, rate, frames, name) for name in ("bits", "recall"))
        reading = rows_of(runs[0], rate, frames)[0]["mflops"]
        row = [f"{rate}", f"{frames}", f"{frames / rate:g}", f"{reading:.1f}"]
        row += [with_margin(bits, 1, 3), with_margin(right, 100, 1) + " %"]
        if world == "flash":
            row.append(f"{100 * lucky(runs, rate, frames, record['settings']['colours']):.1f} %")
        rows.append(row)
    return markdown_table(columns, rows)


def controls(runs: list[Any]) -> str:
    """The same measure without a context, and of a copy of the last frame."""
    alone = estimate(runs, max(RATES), 1, "recall")
    copied = np.mean(list(runs[0]["copied"].values()))
    return (
        f"Controls: the model that reads the last frame alone has {with_margin(alone, 100, 1)} % of "
        f"the asked cells right, a copy of the last frame {100 * copied:.1f} %."
    )


def with_margin(found: Estimate, factor: float, digits: int) -> str:
    text = f"{factor * found.value:.{digits}f}"
    return text if found.margin is None else f"{text} ± {factor * found.margin:.{digits}f}"


def draw_rates(record: dict[str, Any], path: Path) -> None:
    """Bits of the target, and the share of asked cells that are right, by the rate."""
    worlds = by_world(record)
    figure = Figure(figsize=(2.7 * len(worlds) + 0.6, 5.4), layout="constrained")
    panels = figure.subplots(2, len(worlds), sharex=True, squeeze=False)
    for column, (world, runs) in zip(panels.T, worlds.items(), strict=True):
        column[0].set_title(world, fontsize=10)
        for panel, name, factor in zip(column, ("bits", "recall"), (1, 100), strict=True):
            for n, (label, rule) in enumerate(rules(record["settings"]).items()):
                draw_line(panel, runs, rule, name, factor, color=f"C{n}", label=label)
            style_panel(panel)
            panel.set_ylim(bottom=0)
        if world == "flash":
            colours = record["settings"]["colours"]
            frames = record["settings"]["frames"]
            best = [100 * lucky(runs, rate, frames, colours) for rate in RATES]
            name = "seen by luck, else guessed"
            column[1].plot(RATES, best, ":", color="#777777", label=name)
        column[1].set_xlabel("frames a second", fontsize=8)
        column[1].set_ylim(0, 105)
    panels[0, 0].set_ylabel("bits of the target frame", fontsize=8)
    panels[1, 0].set_ylabel("% of the asked cells right", fontsize=8)
    lines, names = panels[1, 0].get_legend_handles_labels()
    figure.legend(lines, names, fontsize=8, frameon=False, loc="outside lower center", ncols=3)
    save_figure(figure, path)


def draw_line(
    panel: Axes, runs: list[Any], rule: Rule, name: str, factor: float, **look: Any
) -> None:
    """A measure at every rate, with the intervals of the seeds as bars."""
    found = [estimate(runs, rate, rule(rate), name) for rate in RATES]
    values = [factor * one.value for one in found]
    margins = [factor * (one.margin or 0.0) for one in found]
    panel.errorbar(RATES, values, margins, marker="o", markersize=4, capsize=2, **look)
    panel.set_xscale("log")
    panel.set_xticks(RATES, [str(rate) for rate in RATES])
    panel.minorticks_off()
